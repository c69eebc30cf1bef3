"""Writes a BERT sentence encoder as ONNX: token ids to one unit vector, int8 weights inside.

What begins as it does and was taught to tell attacks goes on from its embedded words (`write_graph`
gives them out, `write_attack_graph` takes them), so that the word table is there once.

No padding and no mask: the texts of a batch have the same length, as they do one at a time. The
word table is int8 with a scale for each row. The weights of matrices are 7 bits wide, which keeps
`vpmaddubsw` of CPUs without VNNI from saturating: the same file gives the same vectors everywhere.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from export.heads_graph import IR_VERSION, OPSET
from export.packaged_encoder import Array, EncoderWeights
from rag.embedder import ATTACK, OUTPUT, WORDS

INPUT = "input_ids"


def write_graph(weights: EncoderWeights, path: Path, *, is_quantised: bool = True) -> None:
    """Write the graph of `weights` to `path`: ids to the unit vector and the embedded words."""
    _write(_Graph(weights).encoder(), path, is_quantised=is_quantised)


def write_attack_graph(
    weights: EncoderWeights, head: Array, bias: float, path: Path, *, is_quantised: bool = True
) -> None:
    """Write the layers of `weights` to `path`: embedded words to the logit of an attack.

    That is `head` [dim] times the unit vector, plus `bias`.
    """
    _write(_Graph(weights).attack(head, bias), path, is_quantised=is_quantised)


def _write(model: onnx.ModelProto, path: Path, *, is_quantised: bool) -> None:
    onnx.checker.check_model(model, full_check=True)
    if not is_quantised:
        onnx.save(model, path)
        return
    with _without_advice():
        quantize_dynamic(
            model,
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )


@contextmanager
def _without_advice() -> Iterator[None]:
    """Keeps back onnxruntime's advice, told to the root logger, to prepare the graph: it is."""

    def is_other(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith("Please consider to run pre-processing")

    root = logging.getLogger()
    root.addFilter(is_other)
    try:
        yield
    finally:
        root.removeFilter(is_other)


class _Graph:
    """Nodes and constants as they are added; every method gives the name of its result."""

    def __init__(self, weights: EncoderWeights) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def encoder(self) -> onnx.ModelProto:
        """From token ids to the unit vector, with what the layers begin with."""
        words = self._embedded()
        self._nodes.append(
            helper.make_node("LpNormalization", [self._pooled(words)], [OUTPUT], axis=1, p=2)
        )
        dim = self._weights.dim
        return self._model(
            _port(INPUT, ["batch", "tokens"], TensorProto.INT64),
            _port(OUTPUT, ["batch", dim]),
            _port(words, ["batch", "tokens", dim]),
        )

    def attack(self, head: Array, bias: float) -> onnx.ModelProto:
        """From embedded words to a logit."""
        self._add("LpNormalization", [self._pooled(WORDS)], "unit", axis=1, p=2)
        # a Gemm, which is left in float: there is nothing to gain by it in int8
        column = self._constant("head", head.reshape(-1, 1))
        shift = self._constant("head_bias", np.float32(bias).reshape(1))
        self._add("Gemm", ["unit", column, shift], ATTACK)
        return self._model(
            _port(WORDS, ["batch", "tokens", self._weights.dim]), _port(ATTACK, ["batch", 1])
        )

    def _pooled(self, hidden: str) -> str:
        for number in range(self._weights.num_layers):
            hidden = self._layer(hidden, f"encoder.layer.{number}")
        return self._add("ReduceMean", [hidden], "pooled", axes=[1], keepdims=0)

    def _model(self, source: onnx.ValueInfoProto, *outputs: onnx.ValueInfoProto) -> onnx.ModelProto:
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, "encoder", [source], outputs, constants)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)

    def _embedded(self) -> str:
        words, scale = _rows_to_int8(self._tensor("embeddings.word_embeddings.weight"))
        table, scales = self._constant("word_table", words), self._constant("word_scales", scale)
        codes = self._add("Gather", [table, INPUT], "codes")
        word = self._add(
            "Mul",
            [
                self._add("Cast", [codes], "code_values", to=TensorProto.FLOAT),
                self._add("Gather", [scales, INPUT], "code_scales"),
            ],
            "word",
        )
        shape = self._add("Shape", [INPUT], "shape", start=1)
        zero, one = (self._constant(name, np.array(n)) for n, name in enumerate(("zero", "one")))
        length = self._add("Squeeze", [shape], "length")
        numbers = self._add("Range", [zero, length, one], "positions")
        kind = self._tensor("embeddings.token_type_embeddings.weight")[0]
        places = self._tensor("embeddings.position_embeddings.weight") + kind
        place = self._add("Gather", [self._constant("places", places), numbers], "place")
        embedded = self._add("Add", [word, place], "embedded")
        return self._norm(embedded, "embeddings.LayerNorm", WORDS)

    def _layer(self, hidden: str, name: str) -> str:
        heads, dim = self._weights.num_heads, self._weights.dim
        joined = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self._tensor(f"{part}.weight") for part in joined])
        bias = np.concatenate([self._tensor(f"{part}.bias") for part in joined])
        whole = self._linear_of(hidden, f"{name}.qkv", weight, bias)
        parts = [f"{name}.{part}" for part in "qkv"]
        self._nodes.append(helper.make_node("Split", [whole], parts, axis=2))
        shape = self._constant("by_head", np.array([0, 0, heads, dim // heads]))
        orders = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
        query, key, value = (
            self._add(
                "Transpose",
                [self._add("Reshape", [f"{name}.{part}", shape], f"{name}.{part}.heads")],
                f"{name}.{part}.turned",
                perm=order,
            )
            for part, order in orders.items()
        )
        scale = self._constant("scale", np.float32((dim // heads) ** -0.5).reshape(1))
        scores = self._add("Mul", [self._add("MatMul", [query, key], f"{name}.qk"), scale])
        attention = self._add("Softmax", [scores], axis=-1)
        mixed = self._add("MatMul", [attention, value])
        turned = self._add("Transpose", [mixed], perm=[0, 2, 1, 3])
        together = self._add("Reshape", [turned, self._constant("whole", np.array([0, 0, dim]))])
        said = self._linear(together, f"{name}.attention.output.dense")
        hidden = self._norm(self._add("Add", [hidden, said]), f"{name}.attention.output.LayerNorm")
        wide = self._gelu(self._linear(hidden, f"{name}.intermediate.dense"))
        narrow = self._linear(wide, f"{name}.output.dense")
        return self._norm(self._add("Add", [hidden, narrow]), f"{name}.output.LayerNorm")

    def _linear(self, value: str, name: str) -> str:
        weight, bias = self._tensor(f"{name}.weight"), self._tensor(f"{name}.bias")
        return self._linear_of(value, name, weight, bias)

    def _linear_of(self, value: str, name: str, weight: Array, bias: Array) -> str:
        product = self._add("MatMul", [value, self._constant(f"{name}.weight", weight.T)])
        return self._add("Add", [product, self._constant(f"{name}.bias", bias)])

    def _gelu(self, value: str) -> str:
        root, one, half = (
            self._constant(name, np.array([number], np.float32))
            for name, number in (("root_2", 2**0.5), ("one_f", 1.0), ("half", 0.5))
        )
        error = self._add("Erf", [self._add("Div", [value, root])])
        both = self._add("Mul", [value, self._add("Add", [error, one])])
        return self._add("Mul", [both, half])

    def _norm(self, value: str, name: str, output: str = "") -> str:
        parts = [
            self._constant(f"{name}.{part}", self._tensor(f"{name}.{part}"))
            for part in ("weight", "bias")
        ]
        inputs = [value, *parts]
        eps = self._weights.eps
        return self._add("LayerNormalization", inputs, output, epsilon=eps, axis=-1)

    def _tensor(self, name: str) -> Array:
        return self._weights.tensors[name]

    def _constant(self, name: str, value: np.ndarray) -> str:
        if name not in self._constants:
            array = np.asarray(value, order="C")  # keeps scalars scalar
            self._constants[name] = numpy_helper.from_array(array, name)
        return name

    def _add(self, kind: str, inputs: list[str], name: str = "", **attributes: object) -> str:
        output = name or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output


def _port(name: str, shape: list[str | int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _rows_to_int8(table: Array) -> tuple[np.ndarray, Array]:
    """`table [n, dim]` as int8 and the scale of each row, [n, 1]."""
    scale = np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / 127
    return np.rint(table / scale).astype(np.int8), scale.astype(np.float32)
