"""Conversations in the states of others."""

from typing import Any

from tests.train.turns import label, line
from train.dataset import TurnLabel
from train.places import Places, in_state_of


def conversation(
    name: str, stage: str, count: int = 1, npc_id: str = "mina", lang: str = "en"
) -> list[TurnLabel]:
    tags: dict[str, Any] = {**line()["tags"], "quest_stage": stage}
    others = {"conversation": name, "npc_id": npc_id, "lang": lang}
    return [label(turn, tags=tags, response=f"{name} {turn}", **others) for turn in range(count)]


A, B, C = (conversation(name, stage) for name, stage in zip("abc", ("x", "y", "z"), strict=True))
OTHERS = [
    conversation("same", "x"),
    conversation("foreign", "y", npc_id="rook"),
    conversation("korean", "y", lang="ko"),
]


def test_states_are_those_of_the_same_npc_in_the_same_language_and_begin_otherwise() -> None:
    places = Places([A, *OTHERS, B, C])
    assert places.elsewhere(A) == [B, C]
    assert places.elsewhere(B) == [C, A, OTHERS[0]], "first those that follow"
    assert places.elsewhere(OTHERS[1]) == []


def test_a_conversation_takes_the_states_of_another_and_keeps_what_was_said_and_decided() -> None:
    turns, donor = conversation("long", "x", 3), conversation("short", "y", 2)
    donor[1] = conversation("short", "z")[0]
    moved = in_state_of(turns, donor)
    assert [turn.tags.quest_stage for turn in moved] == ["y", "z", "z"]
    for before, after in zip(turns, moved, strict=True):
        assert (after.response, after.delta, after.flag) == (
            before.response,
            before.delta,
            before.flag,
        )
