"""No body, whatever it holds, is a server error. No model is asked: only policy is tested."""

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.prompt import Special
from server.gate import check_gate
from server.pipeline import Dialogue, PipelineEvent
from server.progress import Progress
from server.schemas import AskRequest
from server.service import Service
from server.turn import AskedTurn
from server.turn_prompt import build_prompt
from tests.server.serving import ask_body, client_of, read_events

TEXT = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=["Cc", "Cf", "Cs", "Zs"]), max_size=5),
    st.sampled_from([*Special, "mina", "rook", "any", "started", "\x00", "가" * 2_001]),
)
LEAF = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([0, 1, -1, 2**63, -(2**64), 10**400]),
    st.floats(),
    TEXT,
)
JSON = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
PLACES = [
    *("npc_id", "player_id", "text", "user_input", "session_id", "lang", "stream", "context"),
    *("dialogue_history", "precheck_passed", "gen_params", "explain", "unknown"),
    *("context.player_state", "context.player_state.items", "context.player_state.position"),
    *("context.game_state", "context.game_state.quest_stage", "context.game_state.location"),
    *("context.npc_state.trust", "context.npc_state.npc_mood", "context.npc_config"),
    *("context.dialogue_history", "gen_params.temperature", "gen_params.seed", "gen_params.stop"),
]


@st.composite
def bodies(draw: st.DrawFn) -> Any:
    """A right body with some places overwritten, or anything at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(JSON)
    body = ask_body()
    for path in draw(st.lists(st.sampled_from(PLACES), max_size=3)):
        *outer, name = path.split(".")
        place: Any = body
        for key in outer:
            place = place.setdefault(key, {}) if isinstance(place, dict) else {}
        if isinstance(place, dict):
            place[name] = draw(JSON)
    return body


@st.composite
def raw_bodies(draw: st.DrawFn) -> bytes:
    """A body as bytes, with some stretches of it overwritten, cut out or put in."""
    text = json.dumps(draw(bodies()), ensure_ascii=draw(st.booleans()))
    raw = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(raw)))
        end = start + draw(st.integers(0, 20))
        raw[start:end] = draw(st.binary(max_size=60))
    return bytes(raw)


@dataclass(frozen=True, slots=True)
class PolicyOnly(Dialogue):
    """A dialogue that reads and writes all but asks no model."""

    async def answer(
        self, ask: AskRequest, turn: AskedTurn, *, owner: str = "", is_streamed: bool = True
    ) -> AsyncGenerator[PipelineEvent]:
        """The prompt is built, the sampling checked, the answer authored."""
        build_prompt(turn, self.world, self.encoder, 10**6)
        ask.gen_params.sampling("\n")
        fired = self.triggers.by_keyword(turn.scene, turn.utterance)
        closed = check_gate(turn, ask.precheck_passed, self.world, fired)
        progress = Progress(turn, precheck_passed=ask.precheck_passed, closed=closed)
        self._finish(progress)
        yield self._answer(ask, progress)


@pytest.fixture(scope="module")
def policy_client(tiny_service: Service) -> Iterator[httpx.Client]:
    """A client of a server that asks no model."""
    real = tiny_service.dialogue
    dialogue = PolicyOnly(real.engine, real.encoder, real.heads, real.world, real.bundle_id)
    with client_of(replace(tiny_service, dialogue=dialogue)) as client:
        yield client


@settings(max_examples=300)
@given(body=bodies())
@example(body=ask_body(stream=True))
def test_no_json_is_a_server_error(policy_client: httpx.Client, body: Any) -> None:
    check(policy_client.post("/ask", content=json.dumps(body).encode()))


@settings(max_examples=100)
@given(raw=raw_bodies())
def test_no_bytes_are_a_server_error(policy_client: httpx.Client, raw: bytes) -> None:
    check(policy_client.post("/ask", content=raw))


def check(response: httpx.Response) -> None:
    """An answer, or a problem that says what is wrong."""
    if response.status_code == 200:
        if response.headers["content-type"].startswith("text/event-stream"):  # "stream": true
            last = read_events(response.text)[-1]
            assert last.name == "done"
            assert last.data["text"]
        else:
            assert response.json()["text"]
        return
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (response.status_code, problem["code"]) in [
        (400, "malformed_json"),
        (404, "unknown_npc"),
        (422, "invalid_field"),
    ]
    if problem["code"] == "invalid_field":
        assert problem["field"].startswith("$")
