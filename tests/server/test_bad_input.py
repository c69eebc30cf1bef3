"""Whatever comes in: a problem with a stable code and the field's path, or a right answer."""

import json
from typing import Any

import httpx
import pytest

from runtime.prompt import Special
from server.service import Service
from tests.server.serving import ask_body, check_problem, is_idle


def post(client: httpx.Client, raw: bytes, **headers: str) -> httpx.Response:
    """A body as it is."""
    return client.post("/ask", content=raw, headers=headers)


def with_field(path: str, raw: str) -> bytes:
    """A right body with raw JSON at a path like `context.npc_state.trust`."""
    *outer, name = path.split(".")
    body = ask_body()
    place = body
    for key in outer:
        place = place.setdefault(key, {})
    place[name] = "@@"
    return json.dumps(body).replace('"@@"', raw).encode()


DEEP = "[" * 100_000
MALFORMED = {
    "no body": b"",
    "an open brace": b"{",
    "a word": b"hello",
    "single quotes": b"{'text': 'hi'}",
    "two bodies": json.dumps(ask_body()).encode() * 2,
    "a byte order mark": b"\xef\xbb\xbf" + json.dumps(ask_body()).encode(),
    "UTF-16": json.dumps(ask_body()).encode("utf-16"),
    "not UTF-8": with_field("text", '"@"').replace(b"@", b"\xff\xfe"),
    "an overlong encoding": with_field("text", '"@"').replace(b"@", b"\xc0\xaf"),
    "a raw surrogate": with_field("text", '"@"').replace(b"@", b"\xed\xa0\x80"),
    "an escaped lone surrogate": with_field("text", r'"\ud800"'),
    "an escaped low surrogate": with_field("text", r'"\udc00x"'),
    "a lone surrogate in an ignored place": with_field("context.npc_config", r'{"a": "\ud800"}'),
    "a raw NUL": with_field("text", '"a@b"').replace(b"@", b"\x00"),
    "only NULs": b"\x00" * 100,
    "a raw line break": with_field("text", '"a\nb"'),
    "NaN": with_field("gen_params.temperature", "NaN"),
    "Infinity": with_field("context.npc_state.trust", "Infinity"),
    "minus Infinity": with_field("context.npc_state.trust", "-Infinity"),
    "a bare minus": with_field("gen_params.seed", "-"),
    "a leading zero": with_field("gen_params.seed", "007"),
    "a hundred thousand brackets": with_field("context.npc_config", '{"a":' + DEEP + "}"),
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_json_is_400(client: httpx.Client, raw: bytes) -> None:
    check_problem(post(client, raw), 400, "malformed_json")


WRONG = [
    ("", "[]", "$"),
    ("", "1", "$"),
    ("", "null", "$"),
    ("", '"text"', "$"),
    ("", "{}", "$.npc_id"),
    ("", DEEP, "$"),
    ("", '{"a":' * 100_000, "$.a"),
    ("npc_id", "1", "$.npc_id"),
    ("npc_id", '""', "$.npc_id"),
    ("npc_id", '"' + "x" * 129 + '"', "$.npc_id"),
    ("player_id", "null", "$.player_id"),
    ("player_id", "[]", "$.player_id"),
    ("session_id", '""', "$.session_id"),
    ("session_id", "{}", "$.session_id"),
    ("text", "5", "$.text"),
    ("text", '["hi"]', "$.text"),
    ("text", '{"ko": "hi"}', "$.text"),
    ("text", "null", "$.text"),
    ("text", '""', "$.text"),
    ("text", r'" \t\n "', "$.text"),
    ("text", r'"\u0000\u001b\u007f"', "$.text"),
    ("text", '"' + "a" * 100_000 + '"', "$.text"),
    ("text", '"' + "가" * 2_001 + '"', "$.text"),
    ("user_input", '"something else"', "$.user_input"),
    ("user_input", "true", "$.user_input"),
    ("lang", '"fr"', "$.lang"),
    ("stream", '"yes"', "$.stream"),
    ("stream", "1", "$.stream"),
    ("precheck_passed", '"true"', "$.precheck_passed"),
    ("npcid", '"mina"', "$.npcid"),
    ("context", "[]", "$.context"),
    ("context", '"x"', "$.context"),
    ("context.player_state", "[]", "$.context.player_state"),
    ("context.player_state.items", '"lamp"', "$.context.player_state.items"),
    ("context.player_state.items", "[1]", "$.context.player_state.items[0]"),
    ("context.player_state.items", "[" + '"a",' * 64 + '"a"]', "$.context.player_state.items"),
    ("context.player_state.actions", '["a", null]', "$.context.player_state.actions[1]"),
    ("context.player_state.position", "{}", "$.context.player_state.position"),
    ("context.player_state.position", "[1, 2, 3, 4]", "$.context.player_state.position"),
    ("context.player_state.position", "[1e999]", "$.context.player_state.position[0]"),
    (
        "context.player_state.position",
        "[" + "9" * 5_000 + "]",
        "$.context.player_state.position[0]",
    ),
    ("context.player_state.reputation", "3", "$.context.player_state.reputation"),
    ("context.npc_state.trust", '"high"', "$.context.npc_state.trust"),
    ("context.npc_state.trust", "1.01", "$.context.npc_state.trust"),
    ("context.npc_state.trust", "1e999", "$.context.npc_state.trust"),
    ("context.npc_state.trust", "true", "$.context.npc_state.trust"),
    ("context.npc_state.relationship", "-2", "$.context.npc_state.relationship"),
    ("context.npc_state.npc_mood", '"' + "x" * 201 + '"', "$.context.npc_state.npc_mood"),
    ("context.game_state", "[]", "$.context.game_state"),
    ("context.game_state.quest_stage", "[]", "$.context.game_state[...]"),
    ("context.game_state.quest_stage", "{}", "$.context.game_state[...]"),
    ("context.game_state.quest_stage", '"' + "x" * 100_000 + '"', "$.context.game_state[...]"),
    ("context.game_state.quest_stage", "1e999", "$.context.game_state[...]"),
    ("context.game_state.quest_stage", "9" * 5_000, "$.context.game_state[...]"),
    ("context.npc_config", "[]", "$.context.npc_config"),
    ("context.dialogue_history", "{}", "$.context.dialogue_history"),
    ("dialogue_history", '"hi"', "$.dialogue_history"),
    ("dialogue_history", '["hi"]', "$.dialogue_history[0]"),
    ("dialogue_history", '[{"player": "hi"}]', "$.dialogue_history[0].npc"),
    ("dialogue_history", '[{"player": "hi", "npc": 3}]', "$.dialogue_history[0].npc"),
    (
        "dialogue_history",
        '[{"player": "' + "a" * 2_001 + '", "npc": "b"}]',
        "$.dialogue_history[0].player",
    ),
    ("gen_params", "[]", "$.gen_params"),
    ("gen_params.temprature", "1", "$.gen_params.temprature"),
    ("gen_params.temperature", "-0.1", "$.gen_params.temperature"),
    ("gen_params.temperature", "1e300", "$.gen_params.temperature"),
    ("gen_params.temperature", "1e999", "$.gen_params.temperature"),
    ("gen_params.temperature", '"hot"', "$.gen_params.temperature"),
    ("gen_params.top_k", "-1", "$.gen_params.top_k"),
    ("gen_params.top_k", "1.5", "$.gen_params.top_k"),
    ("gen_params.top_p", "2", "$.gen_params.top_p"),
    ("gen_params.min_p", "-1", "$.gen_params.min_p"),
    ("gen_params.repetition_penalty", "0", "$.gen_params.repetition_penalty"),
    ("gen_params.seed", "-1", "$.gen_params.seed"),
    ("gen_params.seed", "4294967295", "$.gen_params.seed"),
    ("gen_params.seed", "9" * 400, "$.gen_params.seed"),
    ("gen_params.max_tokens", "0", "$.gen_params.max_tokens"),
    ("gen_params.max_tokens", "1000000000000", "$.gen_params.max_tokens"),
    ("gen_params.max_tokens", "true", "$.gen_params.max_tokens"),
    ("gen_params.stop", '"x"', "$.gen_params.stop"),
    ("gen_params.stop", '[""]', "$.gen_params.stop[0]"),
    ("gen_params.stop", "[" + '"a",' * 8 + '"a"]', "$.gen_params.stop"),
]


@pytest.mark.parametrize(
    ("path", "raw", "field"), WRONG, ids=[f"{path}={raw[:20]}" for path, raw, _ in WRONG]
)
def test_a_wrong_type_or_value_is_422_by_field(
    client: httpx.Client, path: str, raw: str, field: str
) -> None:
    response = post(client, with_field(path, raw) if path else raw.encode())
    check_problem(response, 422, "invalid_field", field)
    assert len(response.content) < 1_000


def test_an_utterance_is_needed(client: httpx.Client) -> None:
    response = client.post("/ask", json={"npc_id": "mina", "player_id": "p1"})
    check_problem(response, 422, "invalid_field", "$.text")


def test_an_unknown_npc_is_404_with_those_there_are(client: httpx.Client) -> None:
    problem = check_problem(client.post("/ask", json=ask_body(npc_id="any")), 404, "unknown_npc")
    assert "mina, rook" in problem["detail"]


@pytest.mark.parametrize("size", [1_048_577, 3_000_000])
def test_a_body_over_the_limit_is_413(client: httpx.Client, size: int) -> None:
    check_problem(post(client, b" " * size), 413, "body_too_large")


def test_a_body_over_the_limit_is_413_even_when_its_length_is_not_told(
    client: httpx.Client,
) -> None:
    response = client.post("/ask", content=(b" " * 65_536 for _ in range(20)))
    check_problem(response, 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/ask"),
        ("PUT", "/ask"),
        ("DELETE", "/ask"),
        ("PATCH", "/predict_main"),
        ("POST", "/npcs"),
        ("POST", "/healthz"),
    ],
)
def test_a_wrong_method_is_405_with_the_right_ones(
    client: httpx.Client, method: str, path: str
) -> None:
    response = client.request(method, path)
    check_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"]


@pytest.mark.parametrize(
    "path", ["/asks", "/ask/x", "/playground/none.js", "/../etc/passwd", "/%00", "/npcs/mina"]
)
def test_an_unknown_route_is_404(client: httpx.Client, path: str) -> None:
    check_problem(client.get(path), 404, "not_found")


@pytest.mark.parametrize("kind", ["text/plain", "application/xml", "multipart/form-data", "x" * 99])
def test_the_content_type_is_not_what_counts(client: httpx.Client, kind: str) -> None:
    body = json.dumps(ask_body()).encode()
    assert post(client, body, **{"Content-Type": kind}).status_code == 200
    check_problem(post(client, b"<xml/>", **{"Content-Type": kind}), 400, "malformed_json")


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b"{", 400, "malformed_json", None),
        (b"{}", 422, "invalid_field", "$.prompt"),
        (b'{"prompt": ""}', 422, "invalid_field", "$.prompt"),
        (b'{"prompt": "hello"}', 422, "invalid_field", "$.prompt"),
        (b'{"prompt": ["<STATE>"]}', 422, "invalid_field", "$.prompt"),
        (b'{"prompt": "%b"}' % (b"a" * 32_001), 422, "invalid_field", "$.prompt"),
        (rb'{"prompt": "\ud800<STATE>"}', 400, "malformed_json", None),
        (b'{"prompt": "<STATE>", "npc_id": "mina"}', 422, "invalid_field", "$.npc_id"),
        (
            b'{"prompt": "<STATE>", "gen_params": {"top_p": -1}}',
            422,
            "invalid_field",
            "$.gen_params.top_p",
        ),
    ],
)
def test_a_bad_tagged_prompt_is_told_alike(
    client: httpx.Client, body: bytes, status: int, code: str, field: str | None
) -> None:
    check_problem(client.post("/predict_main", content=body), status, code, field)


def test_a_tagged_prompt_full_of_nuls_is_answered(client: httpx.Client) -> None:
    body = {"prompt": "\x00<PLAYER>\x00\x1b\x00<STATE>", "gen_params": {"max_tokens": 2}}
    assert client.post("/predict_main", json=body).status_code == 200


STRANGE: dict[str, dict[str, Any]] = {
    "every special token": {"text": "".join(Special) * 30},
    "the longest text": {"text": "가" * 2_000},
    "NULs in text": {"text": "\x00a\x00" * 300},
    "NULs everywhere": {
        "npc_id": "rook",
        "player_id": "\x00",
        "session_id": "\x00\x00",
        "context": {
            "player_state": {"items": ["\x00"], "actions": ["\x00"], "reputation": "\x00"},
            "game_state": {"quest_stage": "\x00", "location": "\x00", "\x00": "\x00"},
            "npc_state": {"npc_mood": "\x00"},
        },
        "dialogue_history": [{"player": "\x00", "npc": "\x00"}],
    },
    "right to left and joined": {"text": "\u202eאבג\u200d\u200b\ufeff🏴\u200d☠️"},
    "combining marks": {"text": "e" + "\u0301" * 1_000},
    "private and unassigned": {"text": "\ue000\uffff\U0010ffff\u0378"},
    "a huge history": {"dialogue_history": [{"player": "hi " * 50, "npc": "yes " * 50}] * 2_000},
    "an empty history": {"dialogue_history": [{"player": "", "npc": ""}] * 500},
    "absurd numbers": {"context": {"player_state": {"position": [1e308, -1e308, 5e-324]}}},
    "a long whole number": {"context": {"game_state": {"quest_stage": 10**60}}},
    "absurd sampling": {
        "gen_params": {
            "temperature": 5,
            "top_k": 0,
            "top_p": 0,
            "min_p": 1,
            "repetition_penalty": 10,
            "seed": 2**32 - 2,
            "max_tokens": 512,
            "stop": ["\x00", "<", "가" * 64],
        }
    },
    "the coldest sampling": {"gen_params": {"temperature": 5e-324, "repetition_penalty": 0.1}},
    "many items": {"context": {"player_state": {"items": ["<STATE>" * 28] * 64}}},
}


@pytest.mark.parametrize("fields", STRANGE.values(), ids=STRANGE.keys())
def test_what_is_strange_but_right_is_answered(
    client: httpx.Client, tiny_service: Service, fields: dict[str, Any]
) -> None:
    response = client.post("/ask", json=ask_body(**fields))
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["text"]
    assert answer["meta"]["valid"] or answer["meta"]["reason"] == "prompt_too_long"
    assert is_idle(tiny_service.engine)


def test_a_history_beyond_the_budget_loses_its_oldest_half_and_says_so(
    client: httpx.Client,
) -> None:
    history = [{"player": "hi " * 50, "npc": "yes " * 50}] * 2_000
    meta = client.post("/ask", json=ask_body(dialogue_history=history)).json()["meta"]
    assert meta["valid"] is True
    assert meta["history"] == "rebuilt"
    kept = 2_000 - meta["dropped_turns"]
    assert kept in (1, 2, 4, 8, 16, 32)


def test_nothing_is_nested_so_deep_that_only_a_later_look_at_it_fails(client: httpx.Client) -> None:
    statuses = set()
    for depth in range(900, 1_010):
        for path in ("context.extra", "context.player_state.extra", "context.npc_config.extra"):
            answer = post(client, with_field(path, "[" * depth + "]" * depth))
            statuses.add(answer.status_code)
            if answer.status_code != 200:
                check_problem(answer, 400, "malformed_json")
    assert statuses == {200, 400}
