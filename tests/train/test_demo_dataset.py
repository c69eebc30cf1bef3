"""What docs/data-card.md promises of the demo dataset."""

from collections import Counter
from pathlib import Path

import pytest

from rag.world import World, load_world
from train.data_summary import find_pairs
from train.dataset import DRILLS, TurnLabel, read_splits
from train.encoder_data import TriggerLine, read_lines

FOLDER = Path(__file__).parents[2] / "worlds" / "mulmaru"


@pytest.fixture(scope="module")
def world() -> World:
    return load_world(FOLDER)


@pytest.fixture(scope="module")
def splits() -> dict[str, list[TurnLabel]]:
    lines, problems = read_splits(FOLDER / "data")
    assert not problems
    return {name: [line.turn for line in found] for name, found in lines.items()}


def written(splits: dict[str, list[TurnLabel]]) -> list[TurnLabel]:
    return splits["train"] + splits["validation"]


def test_there_are_enough_turns_conversations_and_words(splits: dict[str, list[TurnLabel]]) -> None:
    turns = written(splits)
    lengths = Counter(turn.conversation for turn in turns)
    assert len(turns) >= 2_400
    assert len(lengths) >= 500
    assert sum(length >= 4 for length in lengths.values()) >= len(lengths) / 2
    assert len({turn.player_utterance.casefold() for turn in turns}) >= 1_800
    assert 0.65 <= sum(turn.lang == "ko" for turn in turns) / len(turns) <= 0.75
    assert sum(bool(turn.withheld) for turn in turns) >= 150
    assert 0.08 <= len(splits["validation"]) / len(turns) <= 0.12


def test_every_flag_is_raised_often_enough_and_by_the_state(
    splits: dict[str, list[TurnLabel]],
) -> None:
    pairs = {name: find_pairs(turns) for name, turns in splits.items()}
    assert len(pairs["train"]) >= 200
    assert len(pairs["test"]) >= 80
    assert len(splits["test"]) >= 480
    for flag in splits["train"][0].flag:
        turns = written(splits)
        assert sum(turn.flag[flag] for turn in turns) >= 0.06 * len(turns), flag
        assert sum(turn.flag[flag] for turn in splits["test"]) >= 40, flag
        assert any(flag in pair.flags for pair in pairs["train"]), flag


def test_every_npc_is_in_every_split_and_language(
    splits: dict[str, list[TurnLabel]], world: World
) -> None:
    for name, turns in splits.items():
        assert {(turn.npc_id, turn.lang) for turn in turns} == {
            (npc, lang) for npc in world.npcs for lang in ("ko", "en")
        }, name


def test_the_world_has_eight_voices_and_eight_flags(world: World) -> None:
    assert sum(npc.lang == "ko" for npc in world.npcs.values()) >= 6
    assert sum(npc.lang == "en" for npc in world.npcs.values()) >= 2
    assert len(world.places) >= 3
    for npc in world.npcs.values():
        assert len(npc.stages) >= 3
        assert {*npc.persona} == {*npc.name} == {*npc.style} == {"ko", "en"}, npc.npc_id


def test_drills_practise_what_conversations_seldom_hold(splits: dict[str, list[TurnLabel]]) -> None:
    drills = splits[DRILLS]
    assert len(drills) >= 1_000
    assert sum(turn.delta["trust"] <= -0.1 for turn in drills) >= len(drills) / 4
    assert sum(bool(turn.withheld) for turn in drills) >= len(drills) / 5
    assert len(find_pairs(drills)) >= 100


def test_no_line_that_attacks_are_learnt_from_is_measured_on() -> None:
    texts = {
        name: [
            "".join(filter(str.isalnum, line.text.casefold()))
            for line in read_lines(FOLDER / "triggers" / f"{name}.jsonl", TriggerLine)
        ]
        for name in ("train", "pairs", "validation", "test")
    }
    learnt = {*texts["train"], *texts["pairs"]}
    assert not learnt & {*texts["validation"], *texts["test"]}
    assert not {*texts["validation"]} & {*texts["test"]}
    assert len(texts["test"]) >= 240
