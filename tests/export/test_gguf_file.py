from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.errors import GgufError
from export.gguf_file import GgufModel, Tensor, float_tensor, read_gguf, write_gguf
from tests.tiny_models import make_tiny


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny("qwen2", tmp_path_factory.mktemp("gguf")).path


def test_a_file_that_is_read_and_written_again_has_the_same_bytes(
    tiny_file: Path, tmp_path: Path
) -> None:
    write_gguf(read_gguf(tiny_file), tmp_path / "copy.gguf")
    assert (tmp_path / "copy.gguf").read_bytes() == tiny_file.read_bytes()


def test_what_is_read_is_what_the_gguf_package_reads(tiny_file: Path) -> None:
    ours, theirs = read_gguf(tiny_file), gguf.GGUFReader(tiny_file)
    assert ours.get("tokenizer.ggml.tokens") == theirs.fields["tokenizer.ggml.tokens"].contents()
    assert [*ours.tensors] == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        np.testing.assert_array_equal(ours.tensors[tensor.name].floats(), tensor.data)


def test_every_kind_of_value_survives(tmp_path: Path) -> None:
    model = GgufModel()
    model.set("general.architecture", GGUFValueType.STRING, "qwen2")
    numbers = {"UINT8": 255, "INT8": -1, "UINT64": 2**63, "INT64": -(2**62), "BOOL": True}
    for name, value in {**numbers, "FLOAT64": 0.1, "FLOAT32": 0.5}.items():
        model.set(f"x.{name}", GGUFValueType[name], value)
        model.set_array(f"x.{name}s", GGUFValueType[name], [value, value])
    model.set_array(
        "x.pieces", GGUFValueType.STRING, ["안녕", b"\xec\x95".decode("utf-8", "surrogateescape")]
    )
    model.add(float_tensor("w", np.arange(6).reshape(2, 3)))
    write_gguf(model, tmp_path / "all.gguf")
    assert read_gguf(tmp_path / "all.gguf").metadata == model.metadata


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_truncated_file_is_an_error_wherever_it_was_cut(
    tiny_file: Path, tmp_path: Path, data: st.DataObject
) -> None:
    whole = tiny_file.read_bytes()
    cut = data.draw(st.integers(0, len(whole) - 32))  # the last bytes may be padding
    (tmp_path / "cut.gguf").write_bytes(whole[:cut])
    with pytest.raises(GgufError, match=r"cut\.gguf.*(truncated|empty|magic)"):
        read_gguf(tmp_path / "cut.gguf")


def test_another_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(GgufError, match=r"magic bytes GGUF.*give a \.gguf file"):
        read_gguf(tmp_path / "model.bin")


def overwrite(path: Path, after: str, offset: int, raw: bytes) -> None:
    """Replace the bytes that stand so far after a name."""
    content = bytearray(path.read_bytes())
    at = content.index(after.encode()) + len(after) + offset
    content[at : at + len(raw)] = raw
    path.write_bytes(content)


def test_an_alignment_that_is_none_is_refused_by_name(tiny_file: Path, tmp_path: Path) -> None:
    path, key = tmp_path / "odd.gguf", "general.alignment"
    model = read_gguf(tiny_file)
    model.set(key, GGUFValueType.UINT32, 64)
    write_gguf(model, path)
    assert [*read_gguf(path).tensors] == [*model.tensors]
    overwrite(path, key, 4, bytes(4))
    with pytest.raises(GgufError, match=r"odd\.gguf: general\.alignment.*found 0; "):
        read_gguf(path)
    overwrite(path, key, 0, GGUFValueType.FLOAT32.to_bytes(4, "little"))
    with pytest.raises(GgufError, match=r"a positive whole number, found 0\.0"):
        read_gguf(path)


def test_a_tensor_without_dimensions_is_refused_by_name(tiny_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "flat.gguf"
    path.write_bytes(tiny_file.read_bytes())
    name = next(iter(read_gguf(path).tensors))
    overwrite(path, name, 0, bytes(4))
    with pytest.raises(GgufError, match=rf"flat\.gguf: {name}: expected at least one dimension"):
        read_gguf(path)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    target.write_bytes(b"old")

    def fail() -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
        raise OSError(28, "No space left on device")

    good = float_tensor("w", np.zeros((2, 3)))
    model = GgufModel()
    model.set("general.architecture", GGUFValueType.STRING, "qwen2")
    model.add(Tensor("w", good.shape, good.type, fail))
    with pytest.raises(OSError, match="No space"):
        write_gguf(model, target)
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]
    assert target.read_bytes() == b"old"
