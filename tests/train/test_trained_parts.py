"""What a run keeps: saved and loaded again, and merged into the GGUF that llama.cpp reads."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from export.gguf_file import read_gguf, write_gguf
from export.merge_lora import SPECIAL_ROWS, WEIGHTS, merge
from runtime.encoder import PromptEncoder
from runtime.llama_backend import LlamaContext, LlamaModel
from tests.export.measure import tolerance
from tests.runtime import driving
from tests.tiny_models import N_EMBD
from tests.train.grounds import (
    DELTA_NAMES,
    FLAG_NAMES,
    Ground,
    batch_of,
    read,
)
from tests.train.turns import WORLD, label
from train.base import BaseInfo
from train.checkpoint import TrainedPersona, load_trained, save_trained
from train.config import LoraConfig
from train.dataset import DatasetError
from train.heads_files import HEADS_WEIGHTS
from train.multi_head import Heads
from train.states import LabelledState, Reading, StateReader, readings, stack
from train.trained import read_with_pytorch
from train.transcripts import TranscriptWriter

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # peft and torch warn of each other
    pytest.mark.usefixtures("one_thread"),
]


def persona_of(ground: Ground) -> TrainedPersona:
    return TrainedPersona(ground.info.vocabulary_sha256, DELTA_NAMES, FLAG_NAMES)


def test_what_is_saved_and_loaded_reads_as_before(ground: Ground, tmp_path: Path) -> None:
    batch, model, other = batch_of(ground.info), ground.model(), ground.model(seed=1)
    save_trained(tmp_path, model, persona_of(ground))
    expected, before = read(model, batch), read(other, batch)
    load_trained(tmp_path, other)
    found = read(other, batch)
    for name in ("states", "delta", "flag_logits", "nll"):
        assert torch.equal(getattr(found, name), getattr(expected, name))
        assert not torch.equal(getattr(before, name), getattr(expected, name))
    assert torch.equal(other.heads.pos_weight, model.heads.pos_weight)


def test_parts_of_another_shape_are_refused_with_the_folder(
    qwen3: Ground, grounds: dict[str, Ground], tmp_path: Path
) -> None:
    model = qwen3.model()
    others = {
        "rank": qwen3.model(LoraConfig(r=8)),
        "projections": grounds["llama"].model(),
        "flags": qwen3.model(),
    }
    others["flags"].heads = Heads(N_EMBD, 2, 3)
    for name, other in others.items():
        folder = tmp_path / name
        folder.mkdir()
        save_trained(folder, other, persona_of(qwen3))
        with pytest.raises(DatasetError, match=f"{name}: not what this run trained"):
            load_trained(folder, model)


@pytest.mark.parametrize("missing", [WEIGHTS, SPECIAL_ROWS, HEADS_WEIGHTS])
def test_a_missing_part_is_told(qwen3: Ground, missing: str, tmp_path: Path) -> None:
    model = qwen3.model()
    save_trained(tmp_path, model, persona_of(qwen3))
    (tmp_path / missing).unlink()
    with pytest.raises(DatasetError, match=f"not what this run trained: .*{missing}"):
        load_trained(tmp_path, model)


EXACT = replace(driving.EXACT, n_seq_max=3)
TURNS = [
    label(0),
    label(1, player_utterance="help <STATE> me", context={"player_state": {"items": ["lamp"]}}),
    label(2, player_utterance="안녕하세요, 목걸이 어디 있어요?"),
]


def readings_of(model: LlamaModel, info: BaseInfo) -> list[Reading]:
    encoder = PromptEncoder(model, info.special_ids)
    return readings([TURNS, [label(0, conversation="d")]], TranscriptWriter(WORLD, encoder))


def read_gguf_states(path: Path, info: BaseInfo) -> tuple[list[Reading], list[LabelledState]]:
    model = LlamaModel(path)
    context = LlamaContext(model, EXACT)
    wanted = readings_of(model, info)
    states = StateReader(context, with_nll=True).read(wanted)
    context.close()
    model.close()
    return wanted, states


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_llama_cpp_reads_the_merged_gguf_as_pytorch_reads_the_trained_model(
    ground: Ground, dtype: torch.dtype, tmp_path: Path
) -> None:
    """States and the replies' likelihood, of conversations continued and rebuilt."""
    save_trained(tmp_path, ground.model(), persona_of(ground), dtype)
    merged, _ = merge(read_gguf(ground.tiny.path), tmp_path)
    path = tmp_path / "merged.gguf"
    write_gguf(merged, path)
    wanted, found = read_gguf_states(path, ground.info)
    model = ground.model(seed=None)
    load_trained(tmp_path, model)
    expected = read_with_pytorch(model, wanted)
    assert [(s.label, s.form) for s in found] == [(s.label, s.form) for s in expected]
    atol = tolerance(ground.tiny.architecture)
    np.testing.assert_allclose(stack(found), stack(expected), rtol=0, atol=atol)
    for state, other in zip(found, expected, strict=True):
        assert state.nll == pytest.approx(other.nll, abs=atol * other.num_answered)
        assert state.num_answered == other.num_answered
    _, untrained = read_gguf_states(ground.tiny.path, ground.info)
    assert np.abs(stack(untrained) - stack(found)).max() > 1
