import json
from typing import Any

import msgspec
import pytest

from server.field_errors import located
from server.schemas import AskRequest


def found(raw: bytes) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(raw, type=AskRequest)
    return " ".join(located(caught.value, raw, AskRequest))


def asked(**others: Any) -> bytes:
    return json.dumps({"npc_id": "mina", "player_id": "p1", **others}).encode()


def npc(**state: Any) -> dict[str, Any]:
    return {"npc_state": state}


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (
            {"context": npc(trust=50)},
            "$.context.npc_state.trust is 50; it must be from -1 to 1",
        ),
        (
            {"gen_params": {"repetition_penalty": 0}},
            "$.gen_params.repetition_penalty is 0; it must be from 0.1 to 10",
        ),
        (
            {"gen_params": {"seed": 2**32}},
            "$.gen_params.seed is 4294967296; it must be from 0 to 4294967294",
        ),
        ({"text": "a" * 2_001}, "$.text has 2001 characters; it must have at most 2000"),
        (
            {"dialogue_history": [{"player": "a" * 2_001, "npc": ""}]},
            "$.dialogue_history[0].player has 2001 characters; it must have at most 2000",
        ),
        (
            {"dialogue_history": [{"player": "", "npc": "a" * 8_001}]},
            "$.dialogue_history[0].npc has 8001 characters; it must have at most 8000",
        ),
        ({"session_id": ""}, "$.session_id has 0 characters; it must have 1 to 257"),
        (
            {"context": {"player_state": {"items": ["a"] * 65}}},
            "$.context.player_state.items has 65 items; it must have at most 64",
        ),
        (
            {"gen_params": {"stop": ["a", ""]}},
            "$.gen_params.stop[1] has 0 characters; it must have 1 to 64",
        ),
        (
            {"context": {"game_state": {"quest_stage": "x" * 201}}},
            "$.context.game_state[...] is too long; it must have at most 200 characters",
        ),
        ({"lang": "fr"}, '$.lang is "fr"; it must be "en" or "ko"'),
        (
            {"context": {"npc_config": {"name": {"fr": "x"}}}},
            "$.context.npc_config.name has a wrong key: invalid enum value 'fr'",
        ),
        (
            {"context": {"game_state": {"x" * 201: 1}}},
            "$.context.game_state has a wrong key: expected `str` of length <= 200",
        ),
        ({"stream": 1}, "$.stream is wrong: expected `bool`, got `int`"),
        ({"trust": 1}, "$.trust is not a field; did you mean context.npc_state.trust?"),
        ({"wether": "fog"}, "$.wether is not a field"),
    ],
)
def test_an_error_says_the_value_and_what_it_must_be(others: dict[str, Any], told: str) -> None:
    assert found(asked(**others)) == told


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (f'"text": "{"a" * 2_001}", "text": 5', "$.text is too long; it must have at most 2000"),
        ('"session_id": "", "session_id": null', "$.session_id is too short"),
        ('"gen_params": {"top_k": -1, "top_k": "x"}', "$.gen_params.top_k is wrong; it must be"),
    ],
)
def test_of_two_equal_keys_the_wrong_one_is_not_confused_with_the_other(
    fields: str, told: str
) -> None:
    raw = f'{{"npc_id": "mina", "player_id": "p1", {fields}}}'.encode()
    assert found(raw).startswith(told)


def test_what_is_missing_is_told_as_such() -> None:
    assert found(b'{"npc_id": "mina"}') == "$.player_id is missing"
    assert found(b"[]") == "$ is wrong: expected `object`, got `array`"


@pytest.mark.parametrize(
    "rest", [b'"stop": [1e999]', b'"stop": ' + b"[" * 100_000, b'"stop": ["\xff"]', b"]"]
)
def test_a_body_that_is_broken_further_on_is_told_without_the_value(rest: bytes) -> None:
    raw = b'{"npc_id": "", ' + rest
    assert found(raw).startswith("$.npc_id is too short; it must have 1 to 128 characters")
