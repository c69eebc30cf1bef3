from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from export.build import read_heads_record
from export.errors import BuildError
from heads.bundle import HEADS, HEADS_RECORD, HeadsRecord
from heads.clues import NO_CLUES
from heads.session import HeadsSession
from train.dataset import DatasetError
from train.fit_heads import LinearHeads
from train.heads_files import (
    HEADS_WEIGHTS,
    head_spec,
    heads_graph,
    read_trained_heads,
    write_heads,
)
from train.multi_head import Heads

N_EMBD = 8
DELTA_NAMES, FLAG_NAMES = ["trust", "relationship"], ["a", "b", "c"]


@pytest.fixture
def trained() -> Heads:
    """Heads as training leaves them, with a weight for each flag."""
    torch.manual_seed(0)
    heads = Heads(N_EMBD, len(DELTA_NAMES), len(FLAG_NAMES))
    with torch.no_grad():
        for part in (*heads.parameters(), heads.mean):
            part.copy_(torch.randn(part.shape))
        heads.scale.copy_(0.5 + torch.rand(N_EMBD))
        heads.pos_weight.copy_(torch.tensor([1.0, 2.0, 3.0]))
    return heads


@pytest.fixture
def folder(trained: Heads, tmp_path: Path) -> Path:
    save_file(trained.state_dict(), tmp_path / HEADS_WEIGHTS)
    return tmp_path


@pytest.fixture
def heads(folder: Path) -> LinearHeads:
    """Those of the folder, calibrated somehow."""
    plain = read_trained_heads(folder)
    return replace(plain, temperature=1.7, thresholds=np.array([0.2, 0.51234, 0.9]))


STATES = np.random.default_rng(0).normal(0, 2, (50, N_EMBD)).astype(np.float32)


def test_trained_heads_predict_deltas_as_they_did_in_training(trained: Heads, folder: Path) -> None:
    with torch.no_grad():
        expected, _ = trained(torch.from_numpy(STATES))
    found, _ = read_trained_heads(folder).predict(STATES)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_odds_of_a_flag_are_divided_by_the_weight_that_it_had_in_training(
    trained: Heads, folder: Path
) -> None:
    with torch.no_grad():
        _, logits = trained(torch.from_numpy(STATES))
    heads = read_trained_heads(folder)
    _, scores = heads.predict(STATES)
    odds = scores / (1 - scores)
    expected = np.exp(logits.double().numpy()) / trained.pos_weight.numpy()
    np.testing.assert_allclose(odds, expected, rtol=1e-4)
    assert heads.temperature == 1
    assert heads.thresholds.tolist() == [0.5] * 3


def test_heads_trained_with_a_weight_give_probabilities_again(tmp_path: Path) -> None:
    """Of 100 turns alike 20 raise the flag, which weighed three times as much."""
    flag = (torch.arange(100)[:, None] < 20).float()
    heads = Heads(N_EMBD, 1, 1)
    heads.start_from(torch.randn(100, N_EMBD), torch.zeros(100, 1), flag, 3.0)
    assert heads.pos_weight.item() == 3
    save_file(heads.state_dict(), tmp_path / HEADS_WEIGHTS)
    _, scores = read_trained_heads(tmp_path).predict(STATES)
    np.testing.assert_allclose(scores, 0.2, atol=1e-6)


def test_the_graph_gives_what_the_heads_predict(heads: LinearHeads, tmp_path: Path) -> None:
    path = tmp_path / HEADS
    path.write_bytes(heads_graph(heads))
    session = HeadsSession(path, head_spec(heads, DELTA_NAMES, FLAG_NAMES), N_EMBD)
    for found, expected in zip(
        session.predict_batch(STATES, [NO_CLUES] * len(STATES)), heads.predict(STATES), strict=True
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_spec_has_names_thresholds_and_temperature_as_the_heads_do(heads: LinearHeads) -> None:
    spec = head_spec(heads, DELTA_NAMES, FLAG_NAMES)
    assert [each.name for each in spec.delta] == DELTA_NAMES
    assert [(each.name, each.threshold) for each in spec.flags] == [
        ("a", 0.2),
        ("b", 0.5123),
        ("c", 0.9),
    ]
    assert spec.temperature == 1.7


def test_a_spec_with_a_name_too_few_is_no_spec(heads: LinearHeads) -> None:
    with pytest.raises(ValueError, match="zip"):
        head_spec(heads, DELTA_NAMES, FLAG_NAMES[:2])


def test_what_a_bundle_is_built_from_is_written_and_read_back(
    heads: LinearHeads, tmp_path: Path
) -> None:
    spec = head_spec(heads, DELTA_NAMES, FLAG_NAMES)
    record = HeadsRecord(heads=spec, vocabulary_sha256="0" * 64, training={"num_turns": 7})
    folder = tmp_path / "new" / "heads"
    write_heads(folder, heads, record)
    assert {path.name for path in folder.iterdir()} == {HEADS, HEADS_RECORD}
    raw = (folder / HEADS_RECORD).read_bytes()
    assert msgspec.json.decode(raw, type=HeadsRecord) == record
    HeadsSession(folder / HEADS, record.heads, N_EMBD)


@pytest.mark.parametrize("num_done", [0, 1])
def test_heads_whose_writing_was_stopped_are_never_taken_for_others(
    heads: LinearHeads, tmp_path: Path, num_done: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new graph under the thresholds of the old one would be: so the record is away meanwhile."""
    other = replace(heads, thresholds=np.array([0.9, 0.9, 0.9]))
    old, new = (
        HeadsRecord(heads=head_spec(each, DELTA_NAMES, FLAG_NAMES), vocabulary_sha256="0" * 64)
        for each in (heads, other)
    )
    write_heads(tmp_path, heads, old)
    replaced: list[Path] = []
    rename = Path.replace

    def stopped(path: Path, target: Path) -> Path:
        if len(replaced) == num_done:
            raise KeyboardInterrupt
        replaced.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_heads(tmp_path, other, new)
    monkeypatch.undo()
    with pytest.raises(BuildError, match="the record of fitted heads"):
        read_heads_record(tmp_path)
    write_heads(tmp_path, other, new)
    assert read_heads_record(tmp_path) == new


def test_the_same_heads_give_the_same_bytes(heads: LinearHeads) -> None:
    assert heads_graph(heads) == heads_graph(replace(heads))
    assert heads_graph(heads) != heads_graph(replace(heads, temperature=1.8))


def test_a_missing_file_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=rf"{HEADS_WEIGHTS}: no heads of `persona train`"):
        read_trained_heads(tmp_path)


def test_a_file_that_is_none_of_ours_is_told(folder: Path, trained: Heads) -> None:
    parts = trained.state_dict()
    del parts["pos_weight"]
    save_file(parts, folder / HEADS_WEIGHTS)
    with pytest.raises(DatasetError, match=r"no heads of `persona train`: 'pos_weight'"):
        read_trained_heads(folder)
    (folder / HEADS_WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(DatasetError, match="no heads of `persona train`"):
        read_trained_heads(folder)
