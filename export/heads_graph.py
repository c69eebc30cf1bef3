"""Writes linear heads as an ONNX graph, normalisation and temperature inside."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from heads.clues import CLUE_FORMAT
from heads.session import CLUE_FORMAT_KEY, CLUE_KEYS

OPSET = 17
IR_VERSION = 10  # what onnxruntime 1.20 reads


@dataclass(frozen=True, slots=True)
class ClueTable:
    """What is known of the words (`heads/clues.py`): a row of int8 `table` for each of `keys`.

    `table` [n_keys, n_delta + n_flags] is multiplied by `scale`, and `bias` is added once (both
    [n_delta + n_flags]). Deltas of the state count `delta_share` [n_delta] beside it.
    """

    keys: npt.ArrayLike
    table: npt.ArrayLike
    scale: npt.ArrayLike
    bias: npt.ArrayLike
    delta_share: npt.ArrayLike


def linear_graph(
    mean: npt.ArrayLike,
    scale: npt.ArrayLike,
    delta: tuple[npt.ArrayLike, npt.ArrayLike],
    flag: tuple[npt.ArrayLike, npt.ArrayLike],
    clues: ClueTable | None = None,
) -> onnx.ModelProto:
    """`state [batch, n_embd]` -> tanh and sigmoid of linear maps of the normalised state.

    `delta` and `flag` are weights [n_embd, n_outputs] and biases [n_outputs]. With `clues` also
    `clues` int64 and `weights` float32, both [batch, k]: rows of the table and what each weighs.
    """
    constants = {
        "mean": mean,
        "inverse_scale": 1 / np.asarray(scale),
        "w_delta": delta[0],
        "b_delta": delta[1],
        "w_flag": flag[0],
        "b_flag": flag[1],
    }
    inputs = [_port("state", np.shape(mean)[0])]
    nodes = [
        helper.make_node("Sub", ["state", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "inverse_scale"], ["normal"]),
        helper.make_node("Gemm", ["normal", "w_delta", "b_delta"], ["delta_logit"]),
        helper.make_node("Gemm", ["normal", "w_flag", "b_flag"], ["flag_logit"]),
    ]
    initializers = [_constant(name, value) for name, value in constants.items()]
    if clues is None:
        nodes += [
            helper.make_node("Tanh", ["delta_logit"], ["delta"]),
            helper.make_node("Sigmoid", ["flag_logit"], ["flag"]),
        ]
    else:
        inputs += [
            helper.make_tensor_value_info("clues", TensorProto.INT64, ["batch", "k"]),
            _port("weights", "k"),
        ]
        nodes += _clue_nodes()
        initializers += _clue_constants(clues, np.shape(delta[1])[0], np.shape(flag[1])[0])
    graph = helper.make_graph(
        nodes,
        "heads",
        inputs,
        [_port("delta", np.shape(delta[1])[0]), _port("flag", np.shape(flag[1])[0])],
        initializers,
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    if clues is not None:
        keys = np.asarray(clues.keys, "<u4").tobytes()
        written = base64.b64encode(keys).decode()
        helper.set_model_props(model, {CLUE_KEYS: written, CLUE_FORMAT_KEY: str(CLUE_FORMAT)})
    onnx.checker.check_model(model, full_check=True)
    return model


def _clue_nodes() -> list[onnx.NodeProto]:
    return [
        helper.make_node("Gather", ["table", "clues"], ["steps"], axis=0),
        helper.make_node("Cast", ["steps"], ["float_steps"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["weights", "last_axis"], ["column"]),
        helper.make_node("Mul", ["float_steps", "column"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "middle_axis"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "clue_scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "clue_bias"], ["evidence"]),
        helper.make_node("Split", ["evidence", "widths"], ["delta_clue", "flag_clue"], axis=1),
        helper.make_node("Tanh", ["delta_logit"], ["state_delta"]),
        helper.make_node("Mul", ["state_delta", "delta_share"], ["shared_delta"]),
        helper.make_node("Add", ["shared_delta", "delta_clue"], ["open_delta"]),
        helper.make_node("Clip", ["open_delta", "lowest", "highest"], ["delta"]),
        helper.make_node("Add", ["flag_logit", "flag_clue"], ["mixed_logit"]),
        helper.make_node("Sigmoid", ["mixed_logit"], ["flag"]),
    ]


def _clue_constants(clues: ClueTable, n_delta: int, n_flags: int) -> list[onnx.TensorProto]:
    return [
        numpy_helper.from_array(np.asarray(clues.table, np.int8), "table"),
        _constant("clue_scale", clues.scale),
        _constant("clue_bias", clues.bias),
        _constant("delta_share", clues.delta_share),
        _constant("lowest", -1.0),
        _constant("highest", 1.0),
        numpy_helper.from_array(np.array([2]), "last_axis"),
        numpy_helper.from_array(np.array([1]), "middle_axis"),
        numpy_helper.from_array(np.array([n_delta, n_flags]), "widths"),
    ]


def _port(name: str, width: int | str) -> onnx.ValueInfoProto:
    shape: Sequence[str | int] = ["batch", width]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _constant(name: str, value: npt.ArrayLike) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)
