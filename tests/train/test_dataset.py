from pathlib import Path

import msgspec
import pytest

from tests.train.turns import label, line, write_lines
from train.dataset import (
    LEARNED,
    SPLITS,
    DatasetError,
    conversations,
    dataset_sha256,
    read_dataset,
    read_turns,
    spread,
)


def error_of(*paths: Path) -> str:
    with pytest.raises(DatasetError) as caught:
        read_turns(paths)
    return str(caught.value)


def test_turns_of_all_files_are_read_in_order_and_blank_lines_skipped(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", [line(0), line(1)])
    first.write_bytes(first.read_bytes().replace(b"\n", b"\n\n"))
    second = write_lines(tmp_path / "b.jsonl", [line(2)])
    assert read_turns([first, second]) == [label(0), label(1), label(2)]


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (b"{", "truncated"),
        (b'{"conversation": "\xff"}', "not valid JSON"),
        (b"[]", "Expected `object`"),
        (msgspec.json.encode(line(1, delta={"trust": 2.0})), "$.delta"),
        (msgspec.json.encode(line(1, flag={"give_item": 2})), "$.flag"),
        (msgspec.json.encode(line(1, lang="fr")), "$.lang"),
        (msgspec.json.encode(line(1, respnse="x")), "respnse"),
        (msgspec.json.encode(line(1, player_utterance="")), "`player_utterance` is blank"),
        (msgspec.json.encode(line(1, player_utterance=" \u3000")), "`player_utterance` is blank"),
        (msgspec.json.encode(line(1, response=" \n\t")), "`response` is blank"),
        (msgspec.json.encode(line(1, flag={"give_item": 1})), "quest_stage_change"),
        (msgspec.json.encode(line(1, delta={"trust": 0.1})), "relationship"),
    ],
)
def test_a_bad_line_is_told_by_file_line_and_key(tmp_path: Path, raw: bytes, named: str) -> None:
    path = write_lines(tmp_path / "turns.jsonl", [line(0)])
    path.write_bytes(path.read_bytes() + b"\n" + raw + b"\n")
    text = error_of(path)
    assert f"{path}: line 3: " in text
    assert named in text


def test_a_turn_that_is_labelled_twice_is_told_by_file_and_line(tmp_path: Path) -> None:
    first = write_lines(tmp_path / "a.jsonl", [line(0), line(1)])
    second = write_lines(tmp_path / "b.jsonl", [line(0, conversation="d"), line(1)])
    text = error_of(first, second)
    assert f"{second}: line 2: turn: turn 1 of conversation 'c' is labelled twice" in text


def test_a_dataset_without_turns_is_an_error(tmp_path: Path) -> None:
    assert "no labelled turn" in error_of(write_lines(tmp_path / "empty.jsonl", []))


def test_the_turns_of_a_conversation_come_in_order() -> None:
    mixed = [label(2), label(0, conversation="other"), label(10), label(1), label(0)]
    grouped = conversations(mixed)
    assert [turn.turn for turn in grouped["c"]] == [0, 1, 2, 10]
    assert [turn.turn for turn in grouped["other"]] == [0]


def test_labels_come_in_the_order_of_the_first_line(tmp_path: Path) -> None:
    other = line(1, flag={"quest_stage_change": 0, "give_item": 1})
    other["delta"] = dict(reversed(other["delta"].items()))
    first, second = read_turns([write_lines(tmp_path / "turns.jsonl", [line(0), other])])
    assert list(second.flag) == list(first.flag)
    assert list(second.delta) == list(first.delta)
    assert second.flag["give_item"] == 1


def test_drills_are_among_what_is_trained_on(tmp_path: Path) -> None:
    for name in ("train", "test", "drills"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "mina.jsonl", [line(0, conversation=name)])
    splits = read_dataset(tmp_path)
    assert {name: [t.conversation for t in turns] for name, turns in splits.items()} == {
        "train": ["train", "drills"],
        "test": ["test"],
    }


def test_what_is_spread_comes_from_all_along() -> None:
    for count in (1, 2, 63, 64, 65, 230, 231):
        chosen = spread(range(231), count)
        assert len(chosen) == count
        assert chosen == sorted(set(chosen))
        assert chosen[0] == 0
        assert chosen[-1] >= 231 - 231 / count - 1
    assert spread("abc", 9) == ["a", "b", "c"]
    assert spread("abc", 0) == spread("", 3) == []


def test_a_split_that_is_needed_and_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write_lines(tmp_path / "train" / "mina.jsonl", [line(0)])
    assert [*read_dataset(tmp_path, ("train",))] == ["train"]
    with pytest.raises(DatasetError, match=r"no validation and no test split.*into validation/"):
        read_dataset(tmp_path, SPLITS)


def test_the_hash_of_some_folders_does_not_depend_on_the_others(tmp_path: Path) -> None:
    for name in ("train", "validation", "drills"):
        (tmp_path / name).mkdir()
        write_lines(tmp_path / name / "mina.jsonl", [line(0, conversation=name)])
    whole, learned = dataset_sha256(tmp_path), dataset_sha256(tmp_path, LEARNED)
    write_lines(tmp_path / "validation" / "mina.jsonl", [line(1, conversation="validation")])
    assert dataset_sha256(tmp_path) != whole
    assert dataset_sha256(tmp_path, LEARNED) == learned
    write_lines(tmp_path / "drills" / "mina.jsonl", [line(1, conversation="drills")])
    assert dataset_sha256(tmp_path, LEARNED) != learned
