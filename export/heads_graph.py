"""Writes linear heads as an ONNX graph, normalisation and temperature inside."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 10  # what onnxruntime 1.20 reads


def linear_graph(
    mean: npt.ArrayLike,
    scale: npt.ArrayLike,
    delta: tuple[npt.ArrayLike, npt.ArrayLike],
    flag: tuple[npt.ArrayLike, npt.ArrayLike],
) -> onnx.ModelProto:
    """`state [batch, n_embd]` -> tanh and sigmoid of linear maps of the normalised state.

    `delta` and `flag` are weights [n_embd, n_outputs] and biases [n_outputs].
    """
    constants = {
        "mean": mean,
        "inverse_scale": 1 / np.asarray(scale),
        "w_delta": delta[0],
        "b_delta": delta[1],
        "w_flag": flag[0],
        "b_flag": flag[1],
    }
    nodes = [
        helper.make_node("Sub", ["state", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "inverse_scale"], ["normal"]),
        helper.make_node("Gemm", ["normal", "w_delta", "b_delta"], ["delta_logit"]),
        helper.make_node("Tanh", ["delta_logit"], ["delta"]),
        helper.make_node("Gemm", ["normal", "w_flag", "b_flag"], ["flag_logit"]),
        helper.make_node("Sigmoid", ["flag_logit"], ["flag"]),
    ]
    graph = helper.make_graph(
        nodes,
        "heads",
        [_port("state", np.shape(mean)[0])],
        [_port("delta", np.shape(delta[1])[0]), _port("flag", np.shape(flag[1])[0])],
        [_constant(name, value) for name, value in constants.items()],
    )
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _port(name: str, width: int) -> onnx.ValueInfoProto:
    shape: Sequence[str | int] = ["batch", width]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _constant(name: str, value: npt.ArrayLike) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, np.float32), name)
