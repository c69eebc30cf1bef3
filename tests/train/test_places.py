"""Conversations in the states of others."""

from typing import Any

import msgspec

from rag.documents import FlagDef, NpcPersona
from rag.world import World
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaModel
from tests.train.turns import label, line
from train.dataset import TurnLabel
from train.places import Places, in_state_of, misplaced
from train.transcripts import TranscriptWriter


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


def test_a_conversation_that_is_too_short_lends_no_states() -> None:
    long, short = conversation("long", "x", 3), conversation("short", "y", 2)
    places = Places([long, short])
    assert places.elsewhere(long) == [], "its last state, again and again, would give it away"
    assert places.elsewhere(short) == [long]


def test_a_conversation_takes_the_states_of_another_and_keeps_what_was_said_and_decided() -> None:
    turns, donor = conversation("own", "x", 2), conversation("other", "y", 3)
    donor[1] = conversation("third", "z")[0]
    moved = in_state_of(turns, donor)
    assert [turn.tags.quest_stage for turn in moved] == ["y", "z"]
    for before, after in zip(turns, moved, strict=True):
        kept = (before.response, before.delta, before.flag)
        assert (after.response, after.delta, after.flag) == kept


def test_what_is_misplaced_keeps_the_decision_of_its_own_place(qwen: LlamaModel) -> None:
    world = World(
        [
            NpcPersona(id="p", npc_id="mina", name="Mina", persona="Mina!", style="terse"),
            *(
                FlagDef(
                    id=stage,
                    npc_id="mina",
                    quest_stage=stage,
                    flag_name="give_item",
                    value=f"gold of {stage}",
                    text="...",
                )
                for stage in "xy"
            ),
        ]
    )
    writer = TranscriptWriter(world, PromptEncoder(qwen, find_special_ids(qwen)))
    gives = {"give_item": 1, "quest_stage_change": 0}
    turns = [msgspec.structs.replace(turn, flag=gives) for turn in A]
    right, wrong = writer.write(turns), writer.write(in_state_of(turns, B))
    assert right.turns[0].decided != wrong.turns[0].decided
    (found,) = misplaced(right, wrong).turns
    assert (found.asked, found.decided, found.answered) == (
        wrong.turns[0].asked,
        right.turns[0].decided,
        right.turns[0].answered,
    )
