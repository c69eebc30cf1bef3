"""What the cosines of one encoder mean: bounds measured on labelled texts, never guessed.

`calibration.json` lies beside an exported encoder; `persona embedder calibrate` writes it.
"""

from typing import Annotated

import msgspec

from heads.spec import Unit
from rag.embedder import USE, EmbedderError, Version, encoder_folder

FORMAT = 1
CALIBRATION = "calibration.json"
FIT = "run `persona embedder build` (default encoder) or `persona embedder calibrate` for this one"


class Calibration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`calibration.json`."""

    format: int = FORMAT
    embedder: str
    """The encoder's id; vectors of another have other cosines."""
    centre: list[float] = []
    """The mean vector of what players ask. Some encoders put all texts near one another: how near a
    line is to the centre says what its cosines are worth.
    """
    note: Unit
    """A note is worth showing if its score is so much above the line's product with the centre."""
    same: Unit
    """From this cosine on two texts are taken to mean the same."""
    letters: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """What the letters that a note shares with a line weigh beside its cosine."""


def read_calibration(name_or_folder: str, embedder_id: str) -> Calibration:
    """The calibration of an encoder: beside it, or the one known for the packaged USE.

    Raises EmbedderError where there is none, or one of another encoder.
    """
    if name_or_folder == USE:
        return Calibration(embedder=embedder_id, note=USE_NOTE, same=USE_SAME, letters=USE_LETTERS)
    path = encoder_folder(name_or_folder) / CALIBRATION
    try:
        raw = path.read_bytes()
        version = msgspec.json.decode(raw, type=Version).format
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
    return calibration


USE_NOTE, USE_SAME, USE_LETTERS = 0.436, 0.8075, 0.32
"""Of the packaged USE, measured as `persona embedder calibrate` does, but without a centre."""
