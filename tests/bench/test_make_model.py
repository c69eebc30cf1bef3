"""`persona bench make-model`: what it writes is the model it claims to be, in all but its words."""

import math
import shutil
import tracemalloc
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from bench.make_model import SHAPES, WEIGHT_TYPES, WeightType, make_model
from bench.random_weights import random_rows
from export.gguf_file import dequantise, read_gguf, write_gguf
from runtime.context_config import ContextConfig
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.llama_library import quantize
from runtime.prompt import Special
from server.cli import main

TINY = SHAPES["tiny"]
SAID = "안녕하세요, 목걸이를 찾으러 왔어요. Where did you leave the golden necklace?"


def write_tiny(path: Path, weights: WeightType, num_layers: int = 2, seed: int = 0) -> Path:
    shape = replace(TINY, num_layers=num_layers)
    write_gguf(make_model("tiny", shape, weights, seed), path)
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaModel]:
    """Vocabulary of production size over a tiny model."""
    shape = replace(TINY, num_tokens=SHAPES["qwen2.5-3b"].num_tokens)
    path = tmp_path_factory.mktemp("wide") / "wide.gguf"
    write_gguf(make_model("wide", shape, "q4_k_m", 0), path)
    model = LlamaModel(path, vocab_only=True)
    yield model
    model.close()


def test_the_3b_has_as_many_weights_as_the_published_one() -> None:
    tensors = make_model("3b", SHAPES["qwen2.5-3b"], "f16", 0).tensors
    # its safetensors index: 6,171,877,376 bytes in bf16
    assert sum(math.prod(tensor.shape) for tensor in tensors.values()) == 6_171_877_376 // 2
    assert tensors["token_embd.weight"].shape == (151_936, 2_048)
    assert tensors["blk.35.ffn_down.weight"].shape == (2_048, 11_008)
    assert tensors["blk.0.attn_v.weight"].shape == (256, 2_048)


@pytest.mark.parametrize("weights", ["q4_k_m", "q4_0", "q8_0"])
def test_tensors_have_the_types_that_llama_cpp_gives_them(
    weights: WeightType, tmp_path: Path
) -> None:
    num_layers = 17  # two of an eighth, and thirds between
    full = write_tiny(tmp_path / "full.gguf", "f16", num_layers)
    quantize(full, tmp_path / "theirs.gguf", weights)
    ours = read_gguf(write_tiny(tmp_path / "ours.gguf", weights, num_layers))
    theirs = read_gguf(tmp_path / "theirs.gguf")
    expected = {name: (tensor.type, tensor.shape) for name, tensor in theirs.tensors.items()}
    found = {name: (tensor.type, tensor.shape) for name, tensor in ours.tensors.items()}
    assert found == expected
    assert ours.get("general.file_type") == theirs.get("general.file_type")


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_0, Type.Q4_K, Type.Q6_K])
@pytest.mark.parametrize("length", [256, 11_008])
def test_weights_of_every_type_keep_a_product_at_variance_1(kind: Type, length: int) -> None:
    num_rows = 2**20 // length
    found = dequantise(random_rows(num_rows, length, kind, (1, 2)), kind)
    assert found.shape == (num_rows, length)
    assert found.std() * math.sqrt(length) == pytest.approx(1, abs=0.02)
    assert abs(found.mean()) * math.sqrt(length) < 0.12
    assert len(np.unique(found)) >= 16


@pytest.mark.parametrize("weights", WEIGHT_TYPES)
def test_llama_cpp_evaluates_it_to_finite_logits_that_depend_on_the_prompt(
    weights: WeightType, tmp_path: Path
) -> None:
    model = LlamaModel(write_tiny(tmp_path / "a.gguf", weights, num_layers=12))
    context = LlamaContext(model, ContextConfig(n_ctx=256, n_seq_max=1))
    tokens = np.random.default_rng(3).integers(0, model.n_vocab, 24).tolist()
    first, second = context.evaluate(tokens), context.evaluate([tokens[0] ^ 1, *tokens[1:]])
    context.close()
    model.close()
    assert np.isfinite(first).all()
    assert 0.1 < first.std() < 10
    assert np.abs(first[-1] - second[-1]).max() > 1e-3


def test_text_survives_a_vocabulary_of_production_size_in_few_tokens(wide: LlamaModel) -> None:
    assert wide.n_vocab == 151_936
    tokens = wide.tokenize(SAID)
    assert b"".join(map(wide.piece, tokens)).decode() == SAID
    assert len(tokens) <= len(SAID) * 2 / 3
    assert len(wide.tokenize("바다가")) == 2


def test_special_tokens_are_there_for_the_server_and_no_text_spells_them(wide: LlamaModel) -> None:
    ids = find_special_ids(wide)
    PromptEncoder(wide, ids)  # refuses those that are missing or not of type CONTROL
    assert ids.keys() == set(Special)
    assert not set(ids.values()) & set(wide.tokenize("".join(Special)))
    assert wide.is_end(wide.eos)


def test_the_seed_decides_every_byte(tmp_path: Path) -> None:
    first = write_tiny(tmp_path / "a.gguf", "q4_k_m").read_bytes()
    assert write_tiny(tmp_path / "b.gguf", "q4_k_m").read_bytes() == first
    assert write_tiny(tmp_path / "c.gguf", "q4_k_m", seed=1).read_bytes() != first


def test_no_two_matrices_are_alike() -> None:
    tensors = make_model("tiny", TINY, "q8_0", 0).tensors
    names = [f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in ("ffn_up", "ffn_gate")]
    assert len({tensors[name].load().tobytes() for name in names}) == len(names)


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    size = write_tiny(tmp_path / "a.gguf", "f16", num_layers=64).stat().st_size
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < size / 8


def test_the_command_writes_the_layers_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.gguf"
    options = ["--out", str(path), "--type", "q4_0", "--layers", "3", "--seed", "5"]
    assert main(["bench", "make-model", "tiny", *options]) == 0
    assert path.read_bytes() == write_tiny(tmp_path / "b.gguf", "q4_0", 3, seed=5).read_bytes()
    out = capsys.readouterr()
    assert "2.3 million random weights" in out.out
    assert str(path) in out.err
    assert sorted(tmp_path.iterdir()) == [path, tmp_path / "b.gguf"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "0"], "--layers is 0; it must be from 1 to 512"),
        (["--layers", "513"], "--layers is 513; it must be from 1 to 512"),
        (["--seed", "-1"], "--seed is -1; it must be from 0 to"),
        (["--out", "."], "a folder; name a file in it"),
        (["--out", "nowhere/a.gguf"], "there is no folder nowhere"),
    ],
)
def test_arguments_that_no_model_can_be_made_with_are_told(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.gguf"
    assert main(["bench", "make-model", "tiny", "--out", str(path), *options]) == 1
    assert said in capsys.readouterr().err
    assert not path.exists()


def test_a_disk_that_is_too_full_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", ["free"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9))
    path = tmp_path / "a.gguf"
    assert main(["bench", "make-model", "qwen2.5-3b", "--out", str(path)]) == 1
    assert "needs 1,923.9 MB, but 1,000.0 MB are free" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())
