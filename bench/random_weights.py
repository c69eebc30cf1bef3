"""Random weights as the bytes of a quantised tensor, at the speed of the random numbers.

Nothing is quantised: quants are drawn as bytes, and scales are set so that weights have a standard
deviation of 1/sqrt(row length) and a mean within a ninth of that from 0. A product with a normed
vector then has variance 1, whatever the layer. The layout of blocks is that of ggml-common.h.
"""

from collections.abc import Callable, Sequence

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.constants import GGML_QUANT_SIZES

from export.gguf_file import Bytes

_SCALE_OF_16 = np.array([80] * 8 + [0] * 4, np.uint8)
"""Q4_K's eight scales and eight mins of 6 bits, all of them 16 (get_scale_min_k4)."""


def random_rows(num_rows: int, length: int, kind: Type, seed: Sequence[int]) -> Bytes:
    """Rows of `length` weights in the layout of `kind`, uint8 `[num_rows, bytes a row]`.

    `kind` is F16, Q8_0, Q4_0, Q4_K or Q6_K, and `length` a multiple of its block. The same
    arguments give the same bytes.
    """
    block, size = GGML_QUANT_SIZES[kind]
    deviation = length**-0.5
    if kind == Type.F16:
        levels = ((np.arange(256) - 127.5) * (deviation / _spread(256))).astype("<f2")
        drawn = _random_bytes(num_rows * length, seed).reshape(num_rows, length)
        halves: Bytes = levels[drawn].view(np.uint8)
        return halves
    blocks = _random_bytes(num_rows * length // block * size, seed).reshape(-1, size)
    _SETTERS[kind](blocks, deviation)
    return blocks.reshape(num_rows, -1)


def _random_bytes(count: int, seed: Sequence[int]) -> Bytes:
    words = np.random.default_rng(seed).integers(0, 2**64, -(-count // 8), np.uint64)
    return words.astype("<u8", copy=False).view(np.uint8)[:count]


def _spread(num_levels: int) -> float:
    """Standard deviation of whole numbers drawn evenly from `num_levels` in a row."""
    return float(np.sqrt((num_levels**2 - 1) / 12))


def _set_q8_0(blocks: Bytes, deviation: float) -> None:
    """Two bytes of scale `d`, 32 quants: `d * q`."""
    blocks[:, :2] = _half(deviation / _spread(256))


def _set_q4_0(blocks: Bytes, deviation: float) -> None:
    """Two bytes of scale `d`, 32 quants of 4 bits: `d * (q - 8)`."""
    blocks[:, :2] = _half(deviation / _spread(16))


def _set_q4_k(blocks: Bytes, deviation: float) -> None:
    """`d`, `dmin`, 12 bytes of scales and mins, 256 quants of 4 bits: `d * sc * q - dmin * m`."""
    d = deviation / _spread(16) / 16
    blocks[:, :2], blocks[:, 2:4], blocks[:, 4:16] = _half(d), _half(d * 7.5), _SCALE_OF_16


def _set_q6_k(blocks: Bytes, deviation: float) -> None:
    """256 quants of 6 bits, 16 scales of 8 bits, `d`: `d * sc * (q - 32)`."""
    blocks[:, 192:208] = 16
    blocks[:, 208:] = _half(deviation / _spread(64) / 16)


def _half(value: float) -> Bytes:
    return np.array([value], "<f2").view(np.uint8)


_SETTERS: dict[Type, Callable[[Bytes, float], None]] = {
    Type.Q8_0: _set_q8_0,
    Type.Q4_0: _set_q4_0,
    Type.Q4_K: _set_q4_k,
    Type.Q6_K: _set_q6_k,
}
