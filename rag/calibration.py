"""What cosines and scores of one encoder mean: bounds measured on labelled texts, never guessed.

`calibration.json` lies beside an exported encoder; `persona embedder calibrate` writes it.
"""

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from heads.spec import Probability, Unit
from rag.embedder import USE, EmbedderError, encoder_folder

FORMAT = 1
CALIBRATION = "calibration.json"
FIT = "run `persona embedder calibrate` for this encoder"


class Detector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A logistic regression on the encoder's vectors: how likely a line is an attack."""

    weights: list[float]
    bias: float
    threshold: Probability
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`calibration.json`."""

    format: int = FORMAT
    embedder: str
    """The encoder's id; vectors of another have other cosines."""
    note: Unit
    """From this score on a note is worth showing to the model."""
    same: Unit
    """From this cosine on two texts are taken to mean the same."""
    detector: Detector | None = None


class HostilityDetector:
    """Scores how likely a line is a threat, extortion, a death wish or vicious abuse."""

    def __init__(self, detector: Detector) -> None:
        self.threshold = detector.threshold
        self._weights = np.asarray(detector.weights, np.float32)
        self._bias = detector.bias

    def score(self, vector: npt.NDArray[np.float32]) -> float:
        """A probability, for a unit vector float32 [dim] of the encoder it was fitted on."""
        logit = float(self._weights @ vector) + self._bias
        return float(1 / (1 + np.exp(-np.clip(logit, -60, 60))))


def read_calibration(name_or_folder: str, embedder_id: str, dim: int) -> Calibration:
    """The calibration of an encoder: beside it, or the one known for the packaged USE.

    Raises EmbedderError where there is none, or one of another encoder.
    """
    if name_or_folder == USE:
        return Calibration(embedder=embedder_id, note=USE_NOTE, same=USE_SAME)
    path = encoder_folder(name_or_folder) / CALIBRATION
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=_Version).format
        if version != FORMAT:
            raise EmbedderError(path, f"a calibration of format {FORMAT}", f"format {version}", FIT)
        calibration = msgspec.json.decode(raw, type=Calibration)
    except OSError as error:
        found = error.strerror or "an error"
        raise EmbedderError(path, "the encoder's calibration", found, FIT) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EmbedderError(path, f"a calibration of format {FORMAT}", str(error), FIT) from error
    if calibration.embedder != embedder_id:
        raise EmbedderError(path, f"a calibration of {embedder_id}", calibration.embedder, FIT)
    if calibration.detector and len(calibration.detector.weights) != dim:
        found = f"{len(calibration.detector.weights)} weights"
        raise EmbedderError(path, f"a detector of {dim} weights", found, FIT)
    return calibration


class _Version(msgspec.Struct):
    format: int


USE_NOTE, USE_SAME = 0.45, 0.75
"""Bounds of the packaged USE; a detector on it is not good enough to be one (docs/retrieval.md)."""
