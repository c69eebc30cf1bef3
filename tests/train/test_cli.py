from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from export.gguf_file import read_gguf
from export.vocabulary import model_vocabulary_sha256
from heads.bundle import HeadsRecord
from heads.clues import NO_CLUES
from heads.session import HeadsSession
from runtime.llama_backend import LlamaModel
from server.cli import main
from tests.rag.worlds import FALLBACK, PERSONA, write_json
from tests.tiny_models import N_EMBD, make_tiny
from tests.train.turns import line, write_lines
from train.fit_heads import LinearHeads, Targets, fit
from train.states import LabelledState

NUM_VALIDATION = 6


@dataclass(frozen=True)
class Workplace:
    """A tiny model, a world and where the heads go."""

    model: Path
    world: Path
    out: Path

    def fit(self, lines: list[dict[str, Any]], *more: str) -> int:
        """Run `persona heads fit`: the last groups are for validation."""
        data = self.world / "data"
        last = {each["split_group"] for each in lines[-NUM_VALIDATION:]} if len(lines) > 9 else ()
        for name in ("train", "validation"):
            (data / name).mkdir(parents=True, exist_ok=True)
            part = [line for line in lines if (line["split_group"] in last) == (name != "train")]
            write_lines(data / name / "turns.jsonl", part)
        given = {"--model": self.model, "--world": self.world, "--data": data, "--out": self.out}
        options = [str(part) for pair in given.items() for part in pair]
        return main(["heads", "fit", *options, "--threads", "1", "--embedder", "none", *more])


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    write_json(tmp_path / "world", "mina.json", [PERSONA, FALLBACK])
    model = make_tiny("qwen2", tmp_path).path
    return Workplace(model, tmp_path / "world", tmp_path / "out")


def handful(num_groups: int = 12) -> list[dict[str, Any]]:
    """Two turns in each group, the flags raised in one of the two."""
    return [
        line(
            turn,
            conversation=f"c{group}",
            split_group=f"group {group}",
            delta={"trust": 0.4 * turn - 0.2, "relationship": 0.1 * turn},
            flag={"give_item": turn, "quest_stage_change": 1 - turn},
            player_utterance=("help", "gold")[turn] + f" {group}",
        )
        for group in range(num_groups)
        for turn in range(2)
    ]


def test_a_handful_of_turns_gives_heads_that_load(place: Workplace) -> None:
    assert place.fit(handful()) == 0
    assert sorted(path.name for path in place.out.iterdir()) == ["heads.json", "heads.onnx"]
    record = msgspec.json.decode((place.out / "heads.json").read_bytes(), type=HeadsRecord)
    assert [delta.name for delta in record.heads.delta] == ["trust", "relationship"]
    assert [flag.name for flag in record.heads.flags] == ["give_item", "quest_stage_change"]
    assert record.vocabulary_sha256 == model_vocabulary_sha256(read_gguf(place.model))
    session = HeadsSession(place.out / "heads.onnx", record.heads, N_EMBD)
    delta, flag = session.predict_batch(np.zeros((3, N_EMBD), np.float32), [NO_CLUES] * 3)
    assert delta.shape == (3, 2)
    assert flag.shape == (3, 2)


def test_the_report_counts_fitted_and_validated_turns_apart(place: Workplace) -> None:
    lines = handful()
    assert place.fit(lines) == 0
    record = msgspec.json.decode((place.out / "heads.json").read_bytes(), type=HeadsRecord)
    assert record.training["num_turns"] == len(lines) - NUM_VALIDATION
    found = record.evaluation["validation"]
    assert found["continued"]["num_turns"] == NUM_VALIDATION
    assert found["rebuilt"]["num_turns"] == NUM_VALIDATION // 2
    for part in ("majority_baseline", "continued", "rebuilt"):
        assert {"flag_macro_f1", "flag_f1", "delta_mae"} <= found[part].keys()


def test_the_graph_gives_the_scores_that_were_evaluated(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[LinearHeads] = []

    def noted(states: Sequence[LabelledState], targets: Targets) -> object:
        heads, chosen = fit(states, targets)
        fitted.append(heads)
        return heads, chosen

    monkeypatch.setattr("train.cli.fit", noted)
    place.fit(handful())
    (heads,) = fitted
    assert abs(heads.temperature - 1) > 0.1
    record = msgspec.json.decode((place.out / "heads.json").read_bytes(), type=HeadsRecord)
    session = HeadsSession(place.out / "heads.onnx", record.heads, N_EMBD)
    states = np.random.default_rng(0).normal(0, 2, (20, N_EMBD)).astype(np.float32)
    for found, expected in zip(
        session.predict_batch(states, [NO_CLUES] * 20), heads.predict(states), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert record.heads.temperature == pytest.approx(heads.temperature, abs=1e-4)
    thresholds = [flag.threshold for flag in record.heads.flags]
    np.testing.assert_allclose(thresholds, heads.thresholds, atol=1e-4)


def test_heads_are_fitted_alike_each_time(place: Workplace) -> None:
    place.fit(handful())
    first = (place.out / "heads.onnx").read_bytes()
    place.fit(handful())
    assert (place.out / "heads.onnx").read_bytes() == first


def test_states_that_were_kept_are_not_read_again(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ("--states", str(tmp_path / "states.npz"))
    assert place.fit(handful(), *kept) == 0
    first = (place.out / "heads.onnx").read_bytes()

    def read_again(*_: object) -> None:
        raise AssertionError("the model was asked")

    with monkeypatch.context() as patch:
        patch.setattr("train.states.StateReader.read", read_again)
        assert place.fit(handful(), *kept) == 0
    assert (place.out / "heads.onnx").read_bytes() == first


@pytest.mark.parametrize("changed", ["data", "world", "model"])
def test_states_of_anything_else_are_read_anew(
    place: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    kept, lines = ("--states", str(tmp_path / "states.npz")), handful()
    place.fit(lines, *kept)
    if changed == "data":
        lines[0]["response"] = "no"
    elif changed == "world":
        write_json(place.world, "mina.json", [{**PERSONA, "persona": "거지"}, FALLBACK])
    else:
        place = replace(place, model=make_tiny("qwen2", tmp_path, seed=1).path)
    asked: list[Path] = []

    def noted(path: Path) -> LlamaModel:
        asked.append(path)
        return LlamaModel(path)

    monkeypatch.setattr("train.cli.LlamaModel", noted)
    assert place.fit(lines, *kept) == 0
    assert asked == [place.model]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "no labelled turn"),
        ([line(0), line(1, lang="fr")], "turns.jsonl: line 2: "),
        ([line(0, npc_id="nobody")], "the world has no NPC nobody"),
        (handful(4), "cross-validation needs 5"),
    ],
)
def test_a_dataset_that_cannot_be_used_is_told(
    place: Workplace, lines: list[dict[str, Any]], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert place.fit(lines) == 1
    error = capsys.readouterr().err
    assert error.startswith("persona heads fit: ")
    assert told in error
    assert not place.out.exists()


def test_a_model_without_the_special_tokens_is_refused(
    place: Workplace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = make_tiny("qwen2", tmp_path, specials=False).path
    assert Workplace(plain, place.world, place.out).fit(handful()) == 1
    assert "special token <SYS>" in capsys.readouterr().err
