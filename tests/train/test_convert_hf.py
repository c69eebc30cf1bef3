"""A folder of Hugging Face weights as a base: converted, built, and built again when it changes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import TokenType
from safetensors.torch import load_file, save_file

from export.build import MODEL_RECORD, build
from export.build_key import BuildOptions, build_key
from export.convert_hf import convert
from export.errors import BuildError
from export.gguf_file import GgufModel, read_gguf
from export.special_tokens import special_ids
from export.vocabulary import read_vocabulary
from heads.bundle import MODEL
from runtime.prompt import Special
from tests.export.bundles import Recorder
from tests.export.measure import llama_logits
from tests.tiny_hf import make_tiny_hf
from train.run import vocabulary_only

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers and torch warn of each other

TOKENS = [2, 300, 17, 301, 302, 40, 303, 12, 9, 310, 311, 312]
WEIGHTS = "model.safetensors"
HALF = 2**-11
"""How much 16-bit floats round."""


@dataclass(frozen=True)
class Converted:
    """The tiny llama: as GGUF, as a folder of Hugging Face weights, and converted from that."""

    tiny: Path
    folder: Path
    path: Path


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    folder = tmp_path_factory.mktemp("tiny")
    source = make_tiny_hf(folder)
    convert(source, folder / "converted.gguf")
    (tiny,) = folder.glob("tiny-llama-*.gguf")
    return Converted(tiny, source, folder / "converted.gguf")


@pytest.fixture
def both(converted: Converted) -> tuple[GgufModel, GgufModel]:
    """What was converted, and what it should be."""
    return read_gguf(converted.path), read_gguf(converted.tiny)


def test_a_converted_model_has_the_tensors_of_the_gguf_that_its_weights_are_from(
    both: tuple[GgufModel, GgufModel],
) -> None:
    found, expected = both
    assert found.architecture == "llama"
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        floats = found.tensors[name].floats()
        np.testing.assert_allclose(floats, tensor.floats(), rtol=HALF, atol=1e-7, err_msg=name)


def test_a_converted_model_has_the_same_vocabulary(both: tuple[GgufModel, GgufModel]) -> None:
    found, expected = (read_vocabulary(model) for model in both)
    assert (found.kind, found.tokens) == (expected.kind, expected.tokens)
    plain = {TokenType.USER_DEFINED: TokenType.NORMAL}  # the converter's word for them in SPM
    assert found.types == [plain.get(kind, kind) for kind in expected.types]
    for name in ("bos", "eos"):
        key = f"tokenizer.ggml.{name}_token_id"
        assert both[0].get(key) == both[1].get(key)


def test_llama_cpp_gives_the_logits_of_the_gguf_that_the_weights_are_from(
    converted: Converted,
) -> None:
    expected = llama_logits(converted.tiny, TOKENS)
    found = llama_logits(converted.path, TOKENS)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, rtol=0, atol=0.02)


def test_weights_published_in_bfloat16_are_not_rounded_again(
    converted: Converted, tmp_path: Path
) -> None:
    folder = copied(converted, tmp_path)
    rewrite(folder, lambda weight: weight.to(torch.bfloat16))
    convert(folder, tmp_path / "converted.gguf")
    found, first = read_gguf(tmp_path / "converted.gguf"), read_gguf(converted.tiny)
    for name, tensor in first.tensors.items():
        expected = torch.from_numpy(tensor.floats().copy()).to(torch.bfloat16).float()
        np.testing.assert_array_equal(found.tensors[name].floats(), expected.numpy(), err_msg=name)


def copied(converted: Converted, folder: Path) -> Path:
    return Path(shutil.copytree(converted.folder, folder / "hf"))


def rewrite(folder: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(folder / WEIGHTS)
    changed = {name: change(value) for name, value in tensors.items()}
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})


def assert_told_in_one_sentence(error: BuildError, subject: Path) -> None:
    assert str(error).startswith(f"{subject}: expected ")
    assert "\n" not in str(error)


def test_a_folder_without_a_configuration_is_told(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"with config\.json, found none; give the f") as caught:
        convert(tmp_path, tmp_path / "converted.gguf")
    assert_told_in_one_sentence(caught.value, tmp_path)


def test_a_converter_that_is_not_installed_is_told_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(BuildError, match=r"pip install 'persona-chat-engine\[train\]'") as caught:
        convert(tmp_path, tmp_path / "converted.gguf")
    assert_told_in_one_sentence(caught.value, tmp_path)


def test_an_architecture_that_the_converter_does_not_know_is_told_in_its_words(
    converted: Converted, tmp_path: Path
) -> None:
    folder = copied(converted, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchModel"]}))
    with pytest.raises(BuildError, match=r"found .*NoSuchModel is not supported; give") as caught:
        convert(folder, tmp_path / "converted.gguf")
    assert_told_in_one_sentence(caught.value, folder)
    assert not (tmp_path / "converted.gguf").exists()


def test_weights_that_are_cut_off_are_told(converted: Converted, tmp_path: Path) -> None:
    folder = copied(converted, tmp_path)
    with (folder / WEIGHTS).open("r+b") as file:
        file.truncate(5_000)
    with pytest.raises(BuildError, match=r"weights that llama\.cpp's converter reads") as caught:
        convert(folder, tmp_path / "converted.gguf")
    assert_told_in_one_sentence(caught.value, folder)


def test_a_folder_of_weights_is_built_once_and_again_when_a_weight_changes(
    converted: Converted, tmp_path: Path
) -> None:
    folder = copied(converted, tmp_path)
    out = tmp_path / "built"
    options = BuildOptions(out, base=folder, quant="keep", trim=False, model_only=True)
    recorder = Recorder()
    assert build(options, recorder)
    assert "converting Hugging Face weights" in recorder.stages
    assert {path.name for path in out.iterdir()} == {MODEL, MODEL_RECORD, "LICENSES"}
    first = read_gguf(out / MODEL)
    specials = special_ids(read_vocabulary(first))
    with vocabulary_only(out / MODEL) as model:
        assert {name: model.find_token(name) for name in Special} == specials
        assert all(model.is_control(token) for token in specials.values())
    norms = first.tensors["output_norm.weight"].floats().copy()
    again = Recorder()
    assert not build(options, again)
    assert again.stages == []
    rewrite(folder, lambda weight: 2 * weight)
    assert build(options, again)
    changed = read_gguf(out / MODEL).tensors["output_norm.weight"].floats()
    np.testing.assert_array_equal(changed, 2 * norms)


def test_the_key_of_a_build_is_that_of_every_file_of_the_folder(
    converted: Converted, tmp_path: Path
) -> None:
    folder = copied(converted, tmp_path)
    options = BuildOptions(tmp_path / "out", base=folder, model_only=True)
    key = build_key(options)
    assert build_key(replace(options, base=converted.folder)) == key
    for path in sorted(folder.iterdir()):
        before = path.read_bytes()
        path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        assert build_key(options) != key, path.name
        path.write_bytes(before)
    assert build_key(options) == key
    (folder / "tokenizer_config.json").unlink()
    assert build_key(options) != key
