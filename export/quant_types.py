"""Which ggml types can be written without llama.cpp, and writing them."""

from typing import cast

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import quantize

from export.gguf_file import Bytes, Floats, dequantise

_BLOCK_ROWS = 8192

WRITABLE = (
    GGMLQuantizationType.F32,
    GGMLQuantizationType.F16,
    GGMLQuantizationType.BF16,
    GGMLQuantizationType.Q8_0,
    GGMLQuantizationType.Q4_0,
    GGMLQuantizationType.Q4_1,
    GGMLQuantizationType.Q5_0,
    GGMLQuantizationType.Q5_1,
)


def is_writable(type_: GGMLQuantizationType) -> bool:
    """Whether gguf-py can quantise to this type; it cannot to K-quants."""
    return type_ in WRITABLE


def quantise_rows(values: Floats, type_: GGMLQuantizationType) -> Bytes:
    """Rows `[n, values]` of float32 in the layout of `type_`, uint8 `[n, bytes]`."""
    if type_ == GGMLQuantizationType.F32:
        return np.ascontiguousarray(values, np.float32).view(np.uint8)
    if type_ == GGMLQuantizationType.F16:
        return values.astype(np.float16).view(np.uint8)
    return cast("Bytes", quantize(values, type_))


def convert(data: Bytes, old: GGMLQuantizationType, new: GGMLQuantizationType) -> Bytes:
    """Rows of bytes from one type to another, block by block to spare memory."""
    if old == new:
        return data
    blocks = [
        quantise_rows(dequantise(data[at : at + _BLOCK_ROWS], old), new)
        for at in range(0, len(data), _BLOCK_ROWS)
    ]
    return np.concatenate(blocks)
