from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from export.errors import GgufError
from export.gguf_file import read_gguf, row_bytes
from export.quantise import QUANT_TYPES, QuantType, is_matrix, quantised, write_quantised
from tests.export.measure import llama_logits
from tests.tiny_models import ARCHITECTURES, Architecture, make_tiny

FILE_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q8_0": 7,
    "q5_0": 8,
    "q4_k_m": 15,
    "q5_k_m": 17,
    "q6_k": 18,
}
ERRORS = {"keep": 0, "f32": 0, "f16": 2e-3, "q8_0": 2e-2, "q5_0": 0.2, "q4_0": 0.4}


@pytest.mark.parametrize("name", QUANT_TYPES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_reads_every_type_and_nearly_agrees_with_the_original(
    architecture: Architecture, name: QuantType, tmp_path: Path
) -> None:
    tiny = make_tiny(architecture, tmp_path)
    path = tmp_path / "out.gguf"
    write_quantised(read_gguf(tiny.path), path, name)
    expected = llama_logits(tiny.path, [5, 300, 301, 302])
    found = llama_logits(path, [5, 300, 301, 302])
    correlation = np.corrcoef(expected.ravel(), found.ravel())[0, 1]
    assert correlation > (0.999 if ERRORS.get(name, 1) < 0.1 else 0.9)


@pytest.mark.parametrize("name", QUANT_TYPES)
def test_the_file_says_what_type_it_has(name: QuantType, tmp_path: Path) -> None:
    path = tmp_path / "out.gguf"
    write_quantised(read_gguf(make_tiny("qwen2", tmp_path).path), path, name)
    written = read_gguf(path)
    assert written.get("general.file_type") == FILE_TYPES.get(name, 0)
    assert written.get("general.quantization_version") == 2
    others = [tensor for tensor in written.tensors.values() if not is_matrix(tensor)]
    assert {tensor.type for tensor in others} == {GGMLQuantizationType.F32}
    assert sorted(item.name for item in tmp_path.glob("out*")) == ["out.gguf"]


@pytest.mark.parametrize("name", ["f32", "f16", "q8_0", "q5_0", "q4_0"])
def test_weights_come_back_within_the_grid_of_the_type(name: QuantType, tmp_path: Path) -> None:
    model = read_gguf(make_tiny("llama", tmp_path).path)
    for tensor in quantised(model, name).tensors.values():
        original = model.tensors[tensor.name].floats()
        error = np.abs(tensor.floats() - original).max()
        assert error <= (ERRORS[name] * np.abs(original).max() if is_matrix(tensor) else 0)


def test_a_tensor_that_has_the_type_already_keeps_its_bytes(tmp_path: Path) -> None:
    once = quantised(read_gguf(make_tiny("gemma3", tmp_path).path), "q5_0")
    twice = quantised(once, "q5_0")
    assert all(twice.tensors[name] is tensor for name, tensor in once.tensors.items())


def test_keep_makes_merged_tensors_q8_0_and_leaves_the_others(tmp_path: Path) -> None:
    model = quantised(read_gguf(make_tiny("gemma3", tmp_path).path), "q4_0")
    kept = quantised(model, "keep", {"blk.0.attn_q.weight"})
    assert kept.tensors.pop("blk.0.attn_q.weight").type == GGMLQuantizationType.Q8_0
    assert all(tensor.type == model.tensors[name].type for name, tensor in kept.tensors.items())
    assert kept.get("general.file_type") == model.get("general.file_type")


def test_a_row_that_holds_no_whole_blocks_is_an_error_with_both_numbers() -> None:
    with pytest.raises(GgufError, match=r"100 values.*multiple of 32"):
        row_bytes(100, GGMLQuantizationType.Q8_0)
