"""The heads at run time: an ONNX graph from the `<STATE>` vector to deltas and flag scores."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from heads.bundle import REBUILD, BundleError
from heads.spec import HeadSpec

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the heads say of one state, by name: deltas in [-1, 1], flag scores in [0, 1]."""

    delta: dict[str, float]
    flag_scores: dict[str, float]


class HeadsSession:
    """Runs `heads.onnx` on one thread: its work is over before a second one would wake.

    Raises BundleError when the file is no ONNX graph or does not fit `spec` and `n_embd`.
    """

    def __init__(self, path: Path, spec: HeadSpec, n_embd: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        providers = ["CPUExecutionProvider"]
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BundleError(path, "an ONNX graph", str(error), REBUILD) from error
        self.spec = spec
        inputs = {node.name: node.shape for node in self._session.get_inputs()}
        outputs = {node.name: node.shape for node in self._session.get_outputs()}
        _check_width(path, "input", "state", inputs, n_embd)
        _check_width(path, "output", "delta", outputs, len(spec.delta))
        _check_width(path, "output", "flag", outputs, len(spec.flags))

    def predict(self, state: Vector) -> Prediction:
        """Deltas and flag scores for one state vector, float32 [n_embd].

        Raises ValueError if any is not a finite number: no threshold would hold it back.
        """
        delta, flag = self.predict_batch(state[np.newaxis])
        if not (np.isfinite(delta).all() and np.isfinite(flag).all()):
            raise ValueError(f"the heads gave delta {delta[0]} and flag {flag[0]}, not all finite")
        return Prediction(
            {spec.name: float(v) for spec, v in zip(self.spec.delta, delta[0], strict=True)},
            {spec.name: float(v) for spec, v in zip(self.spec.flags, flag[0], strict=True)},
        )

    def predict_batch(self, states: Vector) -> tuple[Vector, Vector]:
        """`(delta [batch, n_delta], flag [batch, n_flags])` for float32 [batch, n_embd]."""
        delta, flag = self._session.run(["delta", "flag"], {"state": states})
        return delta, flag


def _check_width(
    path: Path, side: str, name: str, shapes: dict[str, list[object]], width: int
) -> None:
    found = shapes.get(name)
    if found is None or len(found) != 2 or found[1] != width:
        shape = f"none, only {sorted(shapes)}" if found is None else f"shape {found}"
        raise BundleError(path, f"{side} `{name}` of shape [batch, {width}]", shape, REBUILD)
