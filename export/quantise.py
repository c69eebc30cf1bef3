"""Writes a model in the weight type that is asked for.

Vectors and norms stay F32, as llama.cpp has them. A tensor that already has the type keeps its
bytes, so nothing is quantised twice without need.
"""

from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from gguf import GGMLQuantizationType, GGUFValueType, LlamaFileType
from gguf.constants import GGML_QUANT_SIZES, GGML_QUANT_VERSION

from export.errors import QuantiseError
from export.gguf_file import Bytes, GgufModel, Tensor, write_gguf
from export.quant_types import convert
from runtime.errors import ModelError
from runtime.llama_library import quantize

QuantType: TypeAlias = Literal[
    "keep", "f32", "f16", "q8_0", "q4_0", "q5_0", "q4_k_m", "q5_k_m", "q6_k"
]
QUANT_TYPES: tuple[QuantType, ...] = get_args(QuantType)

_TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
}
_BY_LLAMA_CPP = ("q4_k_m", "q5_k_m", "q6_k")


def write_quantised(
    model: GgufModel,
    path: Path,
    name: QuantType,
    *,
    merged: Collection[str] = (),
    on_bytes: Callable[[int], None] | None = None,
) -> None:
    """Writes `model` to `path` in the type `name`; `merged` names the tensors an adapter changed.

    K-quants go through an F16 file beside `path`, which is removed. Raises QuantiseError, OSError.
    """
    if name not in _BY_LLAMA_CPP:
        write_gguf(quantised(model, name, merged), path, on_bytes)
        return
    wide = path.with_name(path.name + ".f16")
    beside = path.with_name(path.name + ".part")
    try:
        write_gguf(quantised(model, "f16", merged), wide, on_bytes)
        quantize(wide, beside, name)
        beside.replace(path)
    except ModelError as error:
        remedy = "see whether the disk is full; else choose --quant q8_0"
        raise QuantiseError(path, f"weights in {name}", str(error), remedy) from error
    finally:
        wide.unlink(missing_ok=True)
        beside.unlink(missing_ok=True)


def quantised(model: GgufModel, name: QuantType, merged: Collection[str] = ()) -> GgufModel:
    """`model` in a type that can be written without llama.cpp; tensors are converted when read.

    `keep` keeps every tensor's type, save that of merged ones: they become Q8_0, because a coarser
    grid erases what an adapter changed.
    """
    result = GgufModel(dict(model.metadata), {})
    for tensor in model.tensors.values():
        if name == "keep":
            kind = GGMLQuantizationType.Q8_0 if tensor.name in merged else tensor.type
        else:
            kind = _TYPES[name][0]
        result.add(_converted(tensor, kind))
    if name != "keep":
        result.set("general.file_type", GGUFValueType.UINT32, int(_TYPES[name][1]))
    result.set("general.quantization_version", GGUFValueType.UINT32, GGML_QUANT_VERSION)
    return result


def is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor is one of those that are quantised."""
    return len(tensor.shape) > 1 and tensor.name.endswith(".weight") and "norm" not in tensor.name


def _converted(tensor: Tensor, kind: GGMLQuantizationType) -> Tensor:
    if not is_matrix(tensor) or tensor.type == kind:
        return tensor
    if tensor.shape[-1] % GGML_QUANT_SIZES[kind][0]:
        kind = GGMLQuantizationType.F16  # its rows hold no whole blocks

    def load() -> Bytes:
        return convert(tensor.load(), tensor.type, kind)

    return replace(tensor, type=kind, load=load)
