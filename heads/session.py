"""The heads at run time: an ONNX graph from the `<STATE>` vector to deltas and flag scores.

A graph with the inputs `clues` and `weights` also reads what was said (`heads/clues.py`): the
hashes of the features that it knows are in its metadata, sorted, the rows of its table in their
order, and the format that they are of.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from heads.attacks import default_detector
from heads.bundle import REBUILD, BundleError
from heads.clues import CLUE_FORMAT, NO_CLUES, ClueIndex, Clues, Remark, attack_key
from heads.spec import HeadSpec

Vector = npt.NDArray[np.float32]

CLUE_KEYS, CLUE_FORMAT_KEY = "clue_keys", "clue_format"
"""Metadata of the graph; the keys are sorted uint32, little-endian, in base64."""
_REFIT = f"{REBUILD}; after `persona triggers fit`, `persona export` first"
_OTHER_FILES = "session.model_external_initializers_file_folder_path"
"""Where onnxruntime looks for weights outside a graph that it is given as bytes. No hash of the
bundle covers those."""
_ROUNDING = 1e-6
"""onnxruntime's tanh and sigmoid exceed 1 by as little."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the heads say of one state, by name: deltas in [-1, 1], flag scores in [0, 1]."""

    delta: dict[str, float]
    flag_scores: dict[str, float]


class HeadsSession:
    """Runs `heads.onnx` on one thread: its work is over before a second one would wake.

    It is tried first. Raises BundleError when the file is no ONNX graph or not all of one, does
    not fit `spec` and `n_embd`, or learnt from another detector of attacks.
    """

    def __init__(self, path: Path, spec: HeadSpec, n_embd: int) -> None:
        self._session = _open(path)
        self.spec = spec
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        _check_width(path, "input", "state", inputs, n_embd)
        _check_width(path, "output", "delta", outputs, len(spec.delta))
        _check_width(path, "output", "flag", outputs, len(spec.flags))
        self._index = self._read_index(path) if "clues" in inputs else None
        if fault := self._fault(n_embd, NO_CLUES):
            expected = "float32 deltas in [-1, 1] and scores in [0, 1] of a float32 state"
            raise BundleError(path, expected, fault, REBUILD)
        if self._index is not None:
            self._check_table(path, n_embd, self._index)

    def _read_index(self, path: Path) -> ClueIndex:
        metadata = self._session.get_modelmeta().custom_metadata_map
        if (found := metadata.get(CLUE_FORMAT_KEY)) != str(CLUE_FORMAT):
            raise BundleError(path, f"clues of format {CLUE_FORMAT}", f"format {found}", REBUILD)
        expected = f"metadata `{CLUE_KEYS}`, sorted hashes in base64"
        if (written := metadata.get(CLUE_KEYS)) is None:
            raise BundleError(path, expected, f"none, only {sorted(metadata)}", REBUILD)
        try:
            index = ClueIndex.from_bytes(base64.b64decode(written, validate=True))
        except ValueError as error:
            raise BundleError(path, expected, str(error), REBUILD) from error
        if not len(index.keys):
            raise BundleError(path, expected, "0 hashes", REBUILD)
        return index

    def _check_table(self, path: Path, n_embd: int, index: ClueIndex) -> None:
        num_rows = len(index.keys)
        expected = f"inputs `clues` and `weights`, a table of {num_rows} rows"
        if fault := self._fault(n_embd, _clue(num_rows - 1)):
            raise BundleError(path, expected, fault, REBUILD)
        if not self._fault(n_embd, _clue(num_rows)):
            raise BundleError(path, expected, "a table of more rows than keys", REBUILD)
        if attack_key() not in index.keys:
            expected = f"a table fitted with the detector of attacks {default_detector().id}"
            raise BundleError(path, expected, "one of another detector", _REFIT)

    def _fault(self, n_embd: int, clues: Clues) -> str | None:
        """What is wrong with the answer to a state of zeros and these clues."""
        try:
            delta, flag = self.predict_batch(np.zeros((1, n_embd), np.float32), [clues])
        except Exception as error:  # onnxruntime's errors share no public base class
            return " ".join(str(error).split())
        return _misfit("delta", delta, len(self.spec.delta), -1) or _misfit(
            "flag", flag, len(self.spec.flags), 0
        )

    def find(self, remark: Remark) -> Clues:
        """What the heads know of a remark; a few tenths of a millisecond."""
        return NO_CLUES if self._index is None else self._index.find(remark)

    def predict(self, state: Vector, clues: Clues) -> Prediction:
        """Deltas and flag scores for one state vector, float32 [n_embd], and what was said.

        Raises ValueError if any is not a finite number: no threshold would hold it back.
        """
        delta, flag = self.predict_batch(state[np.newaxis], [clues])
        if not (np.isfinite(delta).all() and np.isfinite(flag).all()):
            raise ValueError(f"the heads gave delta {delta[0]} and flag {flag[0]}, not all finite")
        return Prediction(
            {spec.name: float(v) for spec, v in zip(self.spec.delta, delta[0], strict=True)},
            {spec.name: float(v) for spec, v in zip(self.spec.flags, flag[0], strict=True)},
        )

    def predict_batch(self, states: Vector, clues: Sequence[Clues]) -> tuple[Vector, Vector]:
        """`(delta [batch, n_delta], flag [batch, n_flags])` for float32 [batch, n_embd]."""
        delta, flag = self._session.run(["delta", "flag"], self.inputs(states, clues))
        return delta, flag

    def inputs(self, states: Vector, clues: Sequence[Clues]) -> dict[str, npt.NDArray[Any]]:
        """What the graph takes for `states` [batch, n_embd] and as many remarks' clues."""
        if len(states) != len(clues):
            raise ValueError(f"{len(states)} states and the clues of {len(clues)} remarks")
        return {"state": states} | ({} if self._index is None else padded(clues))


def padded(found: Sequence[Clues]) -> dict[str, npt.NDArray[Any]]:
    """`clues` int64 and `weights` float32, both [len(found), longest]; padding weighs nothing."""
    shape = (len(found), max((len(each.rows) for each in found), default=0))
    clues, weights = np.zeros(shape, np.int64), np.zeros(shape, np.float32)
    for at, each in enumerate(found):
        clues[at, : len(each.rows)] = each.rows
        weights[at, : len(each.rows)] = each.weights
    return {"clues": clues, "weights": weights}


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what it would log it raises too
    options.add_session_config_entry(_OTHER_FILES, str(path))  # no folder, so nothing is in it
    providers = ["CPUExecutionProvider"]
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=providers)
    except Exception as error:  # onnxruntime's errors share no public base class
        raise BundleError(path, "an ONNX graph in one file", str(error), REBUILD) from error


def _clue(row: int) -> Clues:
    return Clues(np.array([row]), np.ones(1, np.float32))


def _misfit(name: str, found: Vector, width: int, lowest: float) -> str | None:
    if found.dtype != np.float32 or found.shape != (1, width):
        return f"`{name}` of {found.dtype}, shape {[*found.shape]}"
    is_in_range = (lowest - _ROUNDING <= found) & (found <= 1 + _ROUNDING)
    return None if is_in_range.all() else f"`{name}` {found[0].tolist()}"


def _check_width(
    path: Path, side: str, name: str, shapes: dict[str, list[object]], width: int
) -> None:
    found = shapes.get(name)
    if found is None or len(found) != 2 or found[1] != width:
        shape = f"none, only {sorted(shapes)}" if found is None else f"shape {found}"
        raise BundleError(path, f"{side} `{name}` of shape [batch, {width}]", shape, REBUILD)
