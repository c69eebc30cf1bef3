import json
from typing import Any

import msgspec
import pytest

from server.field_names import MAX_TOLD, ignored_fields, meant
from server.schemas import AskContext, AskRequest, NpcState, PlayerState, PredictRequest


def ignored(**context: Any) -> list[str]:
    body = {"npc_id": "mina", "player_id": "p1", "text": "hello", "context": context}
    raw = json.dumps(body).encode()
    msgspec.json.decode(raw, type=AskRequest)
    return ignored_fields(raw)


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("trust", "context.npc_state.trust"),
        ("npc_state", "context.npc_state"),
        ("items", "context.player_state.items"),
        ("quest_stage", "context.game_state.quest_stage"),
        ("temperature", "gen_params.temperature"),
        ("npcid", "npc_id"),
        ("player", "player_id"),
        ("history", "dialogue_history"),
        ("Dialogue_History", "dialogue_history"),
        ("gen_params.temprature", "gen_params.temperature"),
        ("context.npc_state.trsut", "context.npc_state.trust"),
        ("context.npc_state.mood", "context.npc_state.npc_mood"),
        ("context.player_state.trust", "context.npc_state.trust"),
        ("message", None),
        ("context.player_state.level", None),
        ("", None),
        ("x" * 100_000, None),
    ],
)
def test_a_wrong_name_is_told_with_the_field_that_it_may_have_meant(
    path: str, other: str | None
) -> None:
    assert meant(path) == other


def test_a_field_of_another_request_is_never_meant() -> None:
    assert meant("trust", PredictRequest) is None
    assert meant("promt", PredictRequest) == "prompt"


def test_what_the_schema_names_is_not_ignored() -> None:
    assert ignored() == []
    whole: dict[str, Any] = {
        "player_state": dict.fromkeys(PlayerState.__struct_fields__),
        "npc_state": dict.fromkeys(NpcState.__struct_fields__),
        "game_state": {"quest_stage": "started", "weather": "fog", "gold": 3},
        "npc_config": {"anything": 1},
        "dialogue_history": [],
    }
    whole["player_state"].update(items=[], actions=[])
    assert whole.keys() == set(AskContext.__struct_fields__)
    assert ignored(**whole) == []


def test_each_field_that_has_no_effect_is_told_with_what_was_meant() -> None:
    found = ignored(npc_sate={}, player_state={"level": 3}, npc_state={"trust": 0.5, "trsut": 0.5})
    assert found == [
        "context.npc_sate has no effect; did you mean context.npc_state?",
        "context.player_state.level has no effect",
        "context.npc_state.trsut has no effect; did you mean context.npc_state.trust?",
    ]


def test_a_stranger_is_told_no_more_than_a_few_short_sentences() -> None:
    found = ignored(npc_state={f"{number}{'x' * 500}": 1 for number in range(1_000)})
    assert len(found) == MAX_TOLD
    assert all(len(sentence) < 200 for sentence in found)


def test_a_name_with_dots_is_not_taken_for_the_path_that_it_looks_like() -> None:
    (told,) = ignored(**{"npc_state.trust": 1})
    assert told == "context.npc_state.trust has no effect"
