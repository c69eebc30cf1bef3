"""Breaks a valid dataset in one line at a time, and looks for that line in the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from server.cli import main
from tests.train.nari import good_lines, nari_world, turn, write_dataset

Splits = dict[str, list[dict[str, Any]]]


@pytest.fixture
def check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Splits], tuple[int, str]]:
    monkeypatch.setenv("COLUMNS", "120")
    world = tmp_path / "world"
    nari_world(world)

    def run(splits: Splits) -> tuple[int, str]:
        write_dataset(world / "data", splits)
        code = main(["data", "check", str(world)])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out

    return run


def change(number: int, **keys: Any) -> Callable[[Splits], None]:
    return lambda splits: splits["train"][number].update(keys)


def nested(number: int, key: str, **keys: Any) -> Callable[[Splits], None]:
    return lambda splits: splits["train"][number][key].update(keys)


def append(*lines: dict[str, Any], split: str = "train") -> Callable[[Splits], None]:
    return lambda splits: splits[split].extend(lines)


WAYS: dict[str, tuple[Callable[[Splits], None], int, str, str]] = {
    # what is done: how, and the line, key and finding that must be told
    "a misspelt key": (change(1, respnse="x"), 2, "$.respnse", "unknown field"),
    "a delta out of range": (change(1, delta={"trust": 2}), 2, "$.delta[...]", "<= 1"),
    "another language": (change(4, lang="fr"), 5, "$.lang", "fr"),
    "a delta that the world would not let through": (
        nested(0, "delta", trust=-1.0), 1, "delta.trust", "keeps it in [-0.9, 0.9]",
    ),
    "a flag that others lack": (nested(4, "flag", dance=1), 5, "flag", "labels dance"),
    "an unknown NPC": (change(4, npc_id="rok"), 5, "npc_id", "no NPC 'rok'"),
    "an unknown stage": (
        nested(4, "tags", quest_stage="begun"), 5, "tags.quest_stage", "no quest_stage 'begun'",
    ),
    "an unknown place": (nested(4, "tags", location="moon"), 5, "tags.location", "'moon'"),
    "a turn left out": (change(2, turn=3), 3, "turn", "3 where 2 of 'quest'"),
    "a turn told twice": (change(2, turn=1), 3, "turn", "labelled twice"),
    "a conversation in two groups": (change(1, split_group="x"), 2, "split_group", "began with"),
    "trust that jumps": (
        nested(1, "tags", trust=0.9), 2, "tags.trust", "0.9 after 0.2 and a delta of 0.1",
    ),
    "a stage that stands still": (
        nested(2, "tags", quest_stage="in_progress"), 3, "tags.quest_stage", "by the flags",
    ),
    "a gift that is lost": (
        change(2, context={"player_state": {}}), 3, "context.player_state.items", "'lucky_button'",
    ),
    "an event that a condition forbids": (
        nested(3, "flag", quest_stage_change=1), 4, "flag.quest_stage_change", "silver_thimble",
    ),
    "an event that nothing defines here": (
        nested(0, "flag", give_item=1), 1, "flag.give_item", "no_flag_def",
    ),
    "withheld though allowed": (
        change(2, withheld=["npc_main_story"], flag=dict.fromkeys(("give_item", "npc_main_story",
               "quest_stage_change"), 0)), 3, "withheld", "the world allows it",
    ),
    "withheld and raised": (change(2, withheld=["npc_main_story"]), 3, "withheld", "is raised"),
    "an unknown flag withheld": (change(3, withheld=["dance"]), 4, "withheld", "no flag"),
    "an endless line": (change(4, response="well " * 80), 5, "response", "at most 300"),
    "an endless utterance": (change(4, player_utterance="a" * 401), 5, "player_utterance", "400"),
    "an answer in another language": (
        change(4, response="네, 좋아요."), 5, "response", "reads as 'ko', labelled 'en'",
    ),
    "a stage direction": (change(4, response="*sighs* Yes."), 5, "response", "'*' is not spoken"),
    "a special token": (change(4, response="Yes <NPC> no."), 5, "response", "'<NPC>'"),
    "the same answer twice": (
        append(turn("more", 0, "네?", "손이 비었는데요…")), 6, "response", "nari.jsonl, line 4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_broken_is_told_with_file_line_key_and_finding(
    check: Callable[[Splits], tuple[int, str]], way: str
) -> None:
    break_it, number, key, what = WAYS[way]
    splits = good_lines()
    break_it(splits)
    code, text = check(splits)
    assert code == 1
    place = f"data/train/nari.jsonl: line {number}: {key}: "
    told = [line for line in text.splitlines() if place in line]
    assert any(what in line for line in told), text


def test_a_good_dataset_is_counted(check: Callable[[Splits], tuple[int, str]]) -> None:
    code, text = check(good_lines())
    assert code == 0, text
    assert "no problem found" in text
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert "turns 5 1 1 7" in rows
    assert "same words, other flags 1 0 0 1" in rows
    assert "turns that withhold 1 0 0 1" in rows


@pytest.mark.parametrize(("key", "value"), [("split_group", "quest"), ("conversation", "quest")])
def test_nothing_of_training_is_in_a_held_out_split(
    check: Callable[[Splits], tuple[int, str]], key: str, value: str
) -> None:
    splits = good_lines()
    splits["test"][0][key] = value
    code, text = check(splits)
    assert code == 1
    assert f"test/nari.jsonl: line 1: {key}: 'quest' stands in train and in test" in text


def test_near_duplicates_between_splits_are_told(
    check: Callable[[Splits], tuple[int, str]],
) -> None:
    splits = good_lines()
    splits["test"][0]["player_utterance"] = "골무  여기 있어요!"
    code, text = check(splits)
    assert code == 1
    assert "test/nari.jsonl: line 1: player_utterance: 0." in text
    assert "train/nari.jsonl, line 2" in text


def test_a_flag_that_is_hardly_ever_raised_is_told(
    check: Callable[[Splits], tuple[int, str]],
) -> None:
    splits = good_lines()
    splits["train"] += [
        turn(f"more {n}", 0, f"{n}번째로 왔어요", f"어서 오세요, {n}번째네요.") for n in range(30)
    ]
    code, text = check(splits)
    assert code == 1
    assert "flag.npc_main_story: 'npc_main_story' is 1 in 2.9% of the training turns" in text


def test_drills_need_no_balance_and_are_held_against_what_is_held_out(
    check: Callable[[Splits], tuple[int, str]],
) -> None:
    splits = good_lines()
    splits["drills"] = [
        turn(f"drill {n}", 0, f"{n}번째 골무예요", f"{n}번째라니요.") for n in range(30)
    ]
    code, text = check(splits)
    assert code == 0, text
    assert "turns 5 1 1 30 37" in [" ".join(line.split()) for line in text.splitlines()]
    splits["drills"][0]["player_utterance"] = splits["test"][0]["player_utterance"]
    code, text = check(splits)
    assert code == 1
    assert "drills/nari.jsonl, line 1" in text


def test_a_dataset_that_is_not_there_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nari_world(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 1
    assert "no train/*.jsonl" in capsys.readouterr().err
