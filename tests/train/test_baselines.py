from pathlib import Path
from typing import Any

import pytest

from rag.world import load_world
from server.cli import main
from tests.heads.bundles import write_bundle
from tests.train.nari import nari_world, turn, write_dataset
from train.baselines import run_baselines
from train.dataset import TurnLabel, read_dataset

ASKED = ("단추 줘요", "빵 줘요", "실 줘요", "자 줘요", "천 줘요", "초 줘요")
CHAT = ("날이 좋네요", "바람이 차요", "잘 잤어요?", "비가 와요", "눈이 오네요", "꽃이 폈어요")


def hand_over(number: int, *, holds: bool) -> list[dict[str, Any]]:
    """The same words with and without the thing: only the state can tell."""
    return [
        turn(
            f"{kind} {number} {holds}",
            0,
            text,
            f"{number} {kind} {holds} 네…",
            items=["silver_thimble"] if holds else [],
            flags=["give_item"] if holds and kind == "asked" else [],
            delta={"trust": 0.5 if holds else -0.2, "relationship": 0.0},
            split_group=f"{number}",
        )
        for kind, text in (("asked", ASKED[number]), ("chat", CHAT[number]))
    ]


@pytest.fixture
def dataset(tmp_path: Path) -> dict[str, list[TurnLabel]]:
    nari_world(tmp_path)
    splits = {
        name: [
            line for n in numbers for holds in (True, False) for line in hand_over(n, holds=holds)
        ]
        for name, numbers in (("train", (0, 1, 2, 3)), ("validation", (4,)), ("test", (5,)))
    }
    return read_dataset(write_dataset(tmp_path / "data", splits))


def test_only_what_reads_the_state_tells_pairs_apart(
    tmp_path: Path, dataset: dict[str, list[TurnLabel]]
) -> None:
    found = run_baselines(dataset, load_world(tmp_path))
    results = {each.name: each for each in found}
    majority, words = results["majority"], results["utterance"]
    state = results["utterance and state"]
    assert majority.scores.flag_f1["give_item"] == 0
    assert majority.pairs_right == words.pairs_right == 0
    assert state.pairs_right == 1
    assert state.scores.flag_f1["give_item"] == 1
    assert state.scores.delta_mae < 0.6 * words.scores.delta_mae
    assert words.pairs_right_ruled == 1, "the world's conditions hold back what the words ask for"
    assert words.ruled.flag_f1["give_item"] > words.scores.flag_f1["give_item"]


def test_the_command_prints_a_row_for_each(
    tmp_path: Path, dataset: dict[str, list[TurnLabel]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert dataset
    assert main(["data", "baselines", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    for name in ("majority", "utterance", "similarity"):
        assert name in told


def test_a_missing_split_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nari_world(tmp_path)
    write_dataset(tmp_path / "data", {"train": [turn("c", 0, "안녕", "네…")]})
    assert main(["data", "baselines", str(tmp_path)]) == 1
    assert "no validation and no test split" in capsys.readouterr().err


def test_the_test_split_is_not_evaluated_without_what_the_baselines_beside_it_need(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = tmp_path / "world"
    nari_world(world)
    lines = {"train": [turn("c", 0, "안녕", "네…")], "test": [turn("d", 0, "누구", "나리…")]}
    write_dataset(world / "data", lines)
    bundle = str(write_bundle(tmp_path / "bundle"))
    assert main(["evaluate", "bundle", bundle, "--world", str(world), "--split", "test"]) == 1
    assert "no validation split" in capsys.readouterr().err
