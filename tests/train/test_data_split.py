from pathlib import Path

import msgspec
import pytest

from server.cli import main
from tests.train.nari import good_lines, nari_world, write_dataset
from tests.train.turns import label
from train.data_split import choose_validation
from train.data_summary import distinct_2, find_pairs, overlap
from train.dataset import DatasetError, Line, TurnLabel, read_dataset
from train.similarity import jaccard, near_duplicates, ngrams

WORDS = ("salt", "lamp", "rope", "gull", "tide", "bell", "mast", "sand", "crab", "moss")


def lines(turns: list[TurnLabel]) -> list[Line]:
    return [Line(Path("x.jsonl"), number, turn) for number, turn in enumerate(turns, start=1)]


def groups(count: int) -> list[TurnLabel]:
    """Five turns a group, one NPC in four groups, every flag in some."""
    return [
        label(
            number,
            conversation=f"c{group}",
            npc_id=f"npc{group % 4}",
            split_group=f"g{group}",
            player_utterance=f"{WORDS[group % 10]} {WORDS[number]} {group * 7919} {number * 31}",
        )
        for group in range(count)
        for number in range(5)
    ]


def test_validation_has_its_share_of_every_npc_and_flag() -> None:
    turns = groups(80)
    chosen = choose_validation(lines(turns), 0.1)
    part = [turn for turn in turns if turn.split_group in chosen]
    assert len(part) == pytest.approx(0.1 * len(turns), rel=0.15)
    for npc in range(4):
        share = sum(turn.npc_id == f"npc{npc}" for turn in part) / len(part)
        assert share == pytest.approx(0.25, abs=0.13)
    assert choose_validation(lines(turns), 0.1) == chosen, "the same each time"


@pytest.mark.parametrize("share", [0, -0.1, 1, 2, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(DatasetError, match="give more than 0, less than 1"):
        choose_validation(lines(groups(4)), share)


@pytest.mark.parametrize(("num_groups", "share"), [(0, 0.5), (1, 0.5), (4, 0.01), (4, 0.99)])
def test_neither_part_is_left_without_turns(num_groups: int, share: float) -> None:
    with pytest.raises(DatasetError, match="leaves one side nothing"):
        choose_validation(lines(groups(num_groups)), share)


def test_groups_with_near_duplicates_stay_together() -> None:
    turns = groups(40)
    for number in range(0, 40, 2):  # each even group says what the next one says
        twin = turns[5 * (number + 1)].player_utterance
        turns[5 * number] = msgspec.structs.replace(turns[5 * number], player_utterance=twin + "!")
    chosen = choose_validation(lines(turns), 0.3)
    for number in range(0, 40, 2):
        assert (f"g{number}" in chosen) == (f"g{number + 1}" in chosen)
    kept = [turn for turn in turns if turn.split_group not in chosen]
    held_out = [turn for turn in turns if turn.split_group in chosen]
    assert held_out
    assert not near_duplicates(lines(held_out), lines(kept))


def test_the_closest_of_several_near_duplicates_is_told() -> None:
    texts = ("open the gate please", "Open  the gate")
    said = [label(n, player_utterance=text) for n, text in enumerate(texts)]
    ((line, other, value),) = near_duplicates(
        lines([label(9, player_utterance="open the gate")]), lines(said)
    )
    assert (line.turn.turn, value) == (9, 1.0)
    assert other.turn.turn == 1
    far = [label(0, player_utterance="close the door")]
    assert near_duplicates(lines(said), lines(far)) == []


def test_ngrams_of_the_shortest_texts_can_be_compared() -> None:
    assert jaccard(ngrams("…"), ngrams("…")) == 1.0
    assert jaccard(ngrams("a"), ngrams("b")) == 0.0


def test_a_pair_is_the_same_words_with_other_flags() -> None:
    def said(number: int, text: str, give: int, npc: str = "mina") -> TurnLabel:
        flag = {"give_item": give, "quest_stage_change": 0}
        return label(number, player_utterance=text, npc_id=npc, flag=flag)

    turns = [said(0, "Give it", 0), said(1, "give  it", 1), said(2, "give it", 1), said(3, "no", 1)]
    (pair,) = find_pairs([*turns, said(4, "give it", 0, "rook")])
    assert (pair.first.turn, pair.second.turn, pair.flags) == (0, 1, ("give_item",))


def test_diversity_and_overlap_are_shares() -> None:
    assert distinct_2(["a b c", "a b"]) == pytest.approx(2 / 3)
    assert distinct_2(["one"]) == 0.0
    assert overlap(["open the gate"], ["open the gate now"]) == pytest.approx(11 / 12, abs=0.1)
    assert overlap(["abcdefgh"], ["12345678"]) == 0.0


def test_splitting_moves_whole_groups_and_loses_nothing(tmp_path: Path) -> None:
    nari_world(tmp_path)
    folder = write_dataset(tmp_path / "data", good_lines())
    before = read_dataset(folder)
    assert main(["data", "split", str(tmp_path), "--validation", "0.2"]) == 0
    after = read_dataset(folder)
    assert after["test"] == before["test"]
    for splits in (before, after):
        splits.pop("test")
    found, expected = (
        {msgspec.json.encode(turn) for part in splits.values() for turn in part}
        for splits in (after, before)
    )
    assert found == expected
    homes = [{turn.split_group for turn in part} for part in after.values()]
    assert not set.intersection(*homes)
    assert main(["data", "split", str(tmp_path), "--validation", "0.2"]) == 0
    assert {n: p for n, p in read_dataset(folder).items() if n != "test"} == after


@pytest.mark.parametrize("share", ["0", "1", "0.001"])
def test_a_split_that_cannot_be_leaves_the_dataset_as_it_was(
    tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]
) -> None:
    nari_world(tmp_path)
    folder = write_dataset(tmp_path / "data", good_lines())
    before = {path: path.read_bytes() for path in folder.rglob("*.jsonl")}
    assert main(["data", "split", str(tmp_path), "--validation", share]) == 1
    assert "persona data split:" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*.jsonl")} == before
