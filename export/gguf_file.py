"""A GGUF file as a small editable model: ordered metadata, and tensors that are read when used.

Parses by itself: `gguf.GGUFReader` makes numpy arrays of every string, which takes 15 s on Gemma's
262,144 pieces (this: under one) and forgets the item type of empty arrays. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import math
import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFValueType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT
from gguf.quants import dequantize

from export.errors import GgufError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Floats: TypeAlias = npt.NDArray[np.float32]

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}
_REMEDY = "copy or download the file again"
_WRITE_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Value:
    """A metadata value and its GGUF type; `item` is the type of an array's items."""

    type: GGUFValueType
    value: Any
    item: GGUFValueType | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor, rows first (numpy order: `shape[-1]` is the length of a row).

    `load` gives the bytes, in the layout of `type`, as uint8 `[number of rows, bytes a row]`; it
    is called each time they are needed, so that a model need not fit in memory twice.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    load: Callable[[], Bytes]

    @property
    def num_bytes(self) -> int:
        """Size of the data in the file, without padding."""
        return math.prod(self.shape[:-1]) * row_bytes(self.shape[-1], self.type)

    def floats(self) -> Floats:
        """The values in float32, of `shape`."""
        return dequantise(self.load(), self.type).reshape(self.shape)

    def rows(self, rows: Sequence[int] | npt.NDArray[np.int64]) -> Floats:
        """Some rows of a matrix in float32, `[len(rows), shape[-1]]`."""
        return dequantise(self.load()[np.asarray(rows, np.int64)], self.type)


@dataclass(slots=True)
class GgufModel:
    """Metadata and tensors in file order. Edit the dictionaries, then `write_gguf`."""

    metadata: dict[str, Value] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    path: Path | None = field(default=None, compare=False)
    """Where it was read from, for errors; None if it was made in memory."""

    @property
    def architecture(self) -> str:
        """`general.architecture`."""
        return str(self.metadata["general.architecture"].value)

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, or `default`."""
        found = self.metadata.get(key)
        return default if found is None else found.value

    def set(self, key: str, type_: GGUFValueType, value: Any) -> None:
        """Sets a scalar or string; its place in the order is kept if the key is there."""
        self.metadata[key] = Value(type_, value)

    def set_array(self, key: str, item: GGUFValueType, values: Sequence[Any]) -> None:
        """Sets an array; its place in the order is kept if the key is there."""
        self.metadata[key] = Value(GGUFValueType.ARRAY, list(values), item)

    def add(self, tensor: Tensor) -> None:
        """Adds or replaces a tensor."""
        self.tensors[tensor.name] = tensor


def row_bytes(length: int, type_: GGMLQuantizationType) -> int:
    """Bytes of a row of `length` values. Raises GgufError if blocks do not fit into it."""
    block, size = GGML_QUANT_SIZES[type_]
    if length % block:
        remedy = "choose a type with smaller blocks, such as f16"
        raise GgufError(f"a row of {length} values", f"a multiple of {block}", type_.name, remedy)
    return int(length // block * size)


def dequantise(data: Bytes, type_: GGMLQuantizationType) -> Floats:
    """Rows of bytes `[n, bytes]` as float32 `[n, values]`."""
    if type_ == GGMLQuantizationType.F32:
        return data.view(np.float32)
    if type_ == GGMLQuantizationType.F16:
        return data.view(np.float16).astype(np.float32)
    return cast("Floats", dequantize(data, type_))


def float_tensor(name: str, values: npt.NDArray[Any]) -> Tensor:
    """An F32 tensor of an array in memory."""
    data = np.ascontiguousarray(values, np.float32)
    rows = data.reshape(-1, data.shape[-1]).view(np.uint8)
    return Tensor(name, data.shape, GGMLQuantizationType.F32, lambda: rows)


def read_gguf(path: Path) -> GgufModel:
    """The model in `path`; tensor data is mapped, not read. Raises GgufError."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise GgufError(path, "a readable GGUF file", str(error), _REMEDY) from error
    cursor = _Cursor(path, data)
    if cursor.take(4) != b"GGUF":
        raise GgufError(path, "the magic bytes GGUF", repr(bytes(data[:4])), "give a .gguf file")
    if (version := cursor.number("I")) not in (2, 3):
        raise GgufError(path, "GGUF version 2 or 3", f"version {version}", "convert it again")
    num_tensors, num_values = cursor.number("Q"), cursor.number("Q")
    model = GgufModel(path=path)
    for _ in range(num_values):
        key = cursor.string()
        model.metadata[key] = cursor.value()
    infos = [cursor.tensor_info() for _ in range(num_tensors)]
    start = _align(cursor.offset, _alignment(path, model))
    for info in infos:
        model.add(_mapped_tensor(path, data, start, info))
    if "general.architecture" not in model.metadata:
        raise GgufError(path, "the key general.architecture", "none", "convert the model again")
    return model


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int


class _Cursor:
    """Reads the header front to back; what reaches past the end is a GgufError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self.offset = path, data, 0

    def take(self, count: int) -> bytes:
        end = self.offset + count
        if end > len(self._data):
            expected = f"at least {end} bytes"
            raise GgufError(self._path, expected, f"{len(self._data)} (truncated)", _REMEDY)
        taken = self._data[self.offset : end]
        self.offset = end
        return taken

    def number(self, code: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize(code)))[0])

    def string(self) -> str:
        # Pieces of some vocabularies are not UTF-8: they must come out of the writer as they were.
        return self.take(self.number("Q")).decode("utf-8", "surrogateescape")

    def value(self) -> Value:
        type_ = self._type()
        if type_ != GGUFValueType.ARRAY:
            return Value(type_, self._items(type_, 1)[0])
        item = self._type()
        return Value(type_, self._items(item, self.number("Q")), item)

    def tensor_info(self) -> _TensorInfo:
        name = self.string()
        shape = [self.number("Q") for _ in range(self.number("I"))]
        if not shape:
            expected = "at least one dimension"
            raise GgufError(f"{self._path}: {name}", expected, "none", "convert the model again")
        number = self.number("I")
        try:
            type_ = GGMLQuantizationType(number)
        except ValueError as error:
            remedy = "update the package gguf"
            raise GgufError(f"{self._path}: {name}", "a ggml type", str(number), remedy) from error
        return _TensorInfo(name, tuple(reversed(shape)), type_, self.number("Q"))

    def _type(self) -> GGUFValueType:
        number = self.number("I")
        try:
            return GGUFValueType(number)
        except ValueError as error:
            raise GgufError(self._path, "a GGUF value type", str(number), _REMEDY) from error

    def _items(self, type_: GGUFValueType, count: int) -> list[Any]:
        if type_ == GGUFValueType.STRING:
            return [self.string() for _ in range(count)]
        if (code := _SCALARS.get(type_)) is None:
            raise GgufError(self._path, "no nested arrays", type_.name, "convert the model again")
        return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code))))


def _mapped_tensor(path: Path, data: mmap.mmap, start: int, info: _TensorInfo) -> Tensor:
    rows, width = math.prod(info.shape[:-1]), row_bytes(info.shape[-1], info.type)
    offset = start + info.offset
    if offset + rows * width > len(data):
        expected = f"at least {offset + rows * width} bytes (for tensor {info.name})"
        raise GgufError(path, expected, f"{len(data)} (truncated)", _REMEDY)

    def load() -> Bytes:
        return np.frombuffer(data, np.uint8, rows * width, offset).reshape(rows, width)

    return Tensor(info.name, info.shape, info.type, load)


def _alignment(path: Path, model: GgufModel) -> int:
    found = model.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if type(found) is not int or found < 1:
        subject, expected = f"{path}: general.alignment", "a positive whole number"
        raise GgufError(subject, expected, repr(found), "convert the model again")
    return found


def _align(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def write_gguf(model: GgufModel, path: Path, on_bytes: Callable[[int], None] | None = None) -> None:
    """Writes `model` beside `path` and renames: a reader sees the old file or the whole new one.

    The same model gives the same bytes. `on_bytes` is called with the number of tensor bytes
    written since its last call. Raises OSError (disk full).
    """
    beside = path.with_name(path.name + ".part")
    writer = GGUFWriter(beside, model.architecture)
    try:
        _add_header(writer, model)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        _write_tensors(writer, model, on_bytes)
        writer.close()
        os.replace(beside, path)
    except BaseException:
        _abandon(writer.fout or ())
        writer.fout = None
        beside.unlink(missing_ok=True)
        raise


def _add_header(writer: GGUFWriter, model: GgufModel) -> None:
    writer.kv_data[0].clear()  # the writer put the architecture there; ours comes in its own place
    writer.data_alignment = model.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    for key, value in model.metadata.items():
        if value.type == GGUFValueType.ARRAY and not value.value:
            continue  # the writer cannot; llama.cpp reads an empty array as an absent one
        writer.add_key_value(key, _encoded(value), value.type, value.item)
    for tensor in model.tensors.values():
        dtype = np.dtype(np.float32)  # any but uint8, which means "the shape is in bytes"
        writer.add_tensor_info(tensor.name, tensor.shape, dtype, tensor.num_bytes, tensor.type)


def _encoded(value: Value) -> Any:
    if value.type == GGUFValueType.STRING:
        return value.value.encode("utf-8", "surrogateescape")
    if value.item == GGUFValueType.STRING:
        return [item.encode("utf-8", "surrogateescape") for item in value.value]
    return value.value


def _write_tensors(
    writer: GGUFWriter, model: GgufModel, on_bytes: Callable[[int], None] | None
) -> None:
    # Not numpy's tofile, as the writer does: it loses the errno of a full disk.
    assert writer.fout is not None
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for tensor in model.tensors.values():
        data = np.ascontiguousarray(tensor.load()).reshape(-1).data
        assert len(data) == tensor.num_bytes, tensor.name
        for at in range(0, len(data), _WRITE_BLOCK):
            block = data[at : at + _WRITE_BLOCK]
            file.write(block)
            if on_bytes is not None:
                on_bytes(len(block))
        writer.write_padding(file, len(data))
    file.flush()
    os.fsync(file.fileno())


def _abandon(files: Sequence[Any]) -> None:
    for file in files:
        try:
            file.close()  # flushes, which fails again on a full disk
        except OSError:
            continue
