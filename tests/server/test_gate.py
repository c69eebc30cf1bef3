"""Turns that never reach the main path, from the request to the answer."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest

from rag.calibration import Calibration
from rag.documents import Document
from rag.index_store import open_index
from rag.retriever import Retriever
from rag.world import World
from server.service import Service
from tests.rag.fake_embedder import GramEmbedder
from tests.server.serving import altered, ask_body, client_of, read_events
from tests.server.small_world import DOCUMENTS

TERMS: list[dict[str, Any]] = [
    {
        "id": "terms",
        "type": "trigger_def",
        "npc_id": "mina",
        "trigger": {
            "required_items": {"mandatory": ["pearl"]},
            "required_game_state": {"tide": "low"},
            "unless": [{"required_npc_state": {"npc_mood": "hostile"}}],
        },
    },
    {
        "id": "threats",
        "type": "forbidden_trigger_list",
        "npc_id": "mina",
        "triggers": {"keywords": ["burn it down", "죽여 버"]},
    },
    {
        "id": "threats-meta",
        "type": "trigger_meta",
        "npc_id": "mina",
        "trigger": "threats",
        "npc_action": {"ko": "문을 닫는다", "en": "shuts the door"},
        "npc_emotion": "furious",
        "delta": {"trust": -0.7},
    },
    {"id": "slurs", "type": "forbidden_trigger_list", "triggers": {"keywords": ["scum"]}},
    {"id": "slurs-meta", "type": "trigger_meta", "trigger": "slurs", "delta": {"trust": -0.3}},
]
OPEN = {"player_state": {"items": ["pearl"]}, "game_state": {"tide": "low"}}


@pytest.fixture(scope="module")
def gated(tiny_service: Service) -> Service:
    documents = [msgspec.convert(document, Document) for document in [*DOCUMENTS, *TERMS]]
    return altered(tiny_service, world=World(documents))


@pytest.fixture(scope="module")
def gate(gated: Service) -> Iterator[httpx.Client]:
    with client_of(gated) as client:
        yield client


def asked(client: httpx.Client, text: str = "hello", **body: Any) -> dict[str, Any]:
    response = client.post("/ask", json=ask_body(text, **body))
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


CLOSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # what the player says, the rest of the request, and what meta says
    (
        "hello",
        {},
        {
            "reason": "conditions_unmet",
            "unmet": [
                {"key": "required_items.mandatory", "needed": "pearl", "found": "nothing"},
                {"key": "required_game_state.tide", "needed": "low", "found": "nothing"},
            ],
            "npc_action": "lifts the lantern",
            "npc_emotion": "wary",
        },
    ),
    (
        "hello",
        {"context": {**OPEN, "npc_state": {"npc_mood": "hostile"}}},
        {
            "reason": "conditions_unmet",
            "unmet": [
                {
                    "key": "unless[0]",
                    "needed": "not required_npc_state.npc_mood hostile",
                    "found": "holds",
                }
            ],
        },
    ),
    ("hello", {"context": OPEN, "precheck_passed": False}, {"reason": "precheck_failed"}),
    (
        "I will BURN it   down",
        {"context": OPEN},
        {
            "reason": "forbidden_trigger",
            "trigger": "threats",
            "npc_action": "shuts the door",
            "npc_emotion": "furious",
        },
    ),
    ("s.c.u.m", {"context": OPEN}, {"reason": "forbidden_trigger", "trigger": "slurs"}),
    ("확 죽여버린다", {}, {"reason": "forbidden_trigger", "npc_action": "문을 닫는다"}),
    (
        "you scum",
        {"precheck_passed": True},
        {"reason": "forbidden_trigger", "trigger": "slurs"},
    ),
]


@pytest.mark.parametrize(("text", "body", "meta"), CLOSED)
def test_a_closed_path_is_a_fallback_that_says_why(
    gate: httpx.Client, text: str, body: dict[str, Any], meta: dict[str, Any]
) -> None:
    answer = asked(gate, text, **body)
    found = answer["meta"]
    assert (found["valid"], found["path"]) == (False, "fallback")
    assert {key: found[key] for key in meta} == meta
    assert ("unmet" in found) == (found["reason"] == "conditions_unmet")
    assert ("trigger" in found) == (found["reason"] == "forbidden_trigger")
    assert not any(answer["flags"].values())
    trust = {"threats": -0.7, "slurs": -0.3}.get(found.get("trigger", ""), 0.0)
    assert answer["delta"] == {"trust": trust, "relationship": 0.0}
    assert answer["text"]


@pytest.mark.parametrize("body", [{"context": OPEN}, {"precheck_passed": True}, {"npc_id": "rook"}])
def test_an_open_path_is_the_main_one(gate: httpx.Client, body: dict[str, Any]) -> None:
    meta = asked(gate, "nothing unkind", **body)["meta"]
    assert (meta["path"], meta["reason"], "unmet" in meta) == ("main", None, False)


def test_a_fallback_is_spoken_by_the_model_without_a_state(gate: httpx.Client) -> None:
    answer = asked(gate, gen_params={"temperature": 0, "max_tokens": 8})
    assert answer["meta"]["usage"]["completion_tokens"] > 0
    assert "state" not in answer["meta"]["timings_ms"]


def test_a_studio_may_have_its_own_lines_instead(gated: Service) -> None:
    with client_of(altered(gated, world=gated.dialogue.world, fallback="authored")) as client:
        answer = asked(client)
    assert answer["meta"]["text_source"] == "authored"
    assert answer["text"] in {"The wind is up.", "One moment."}
    assert answer["meta"]["reason"] == "conditions_unmet"


def test_a_fallback_that_the_model_cannot_speak_keeps_its_reason(gated: Service) -> None:
    with client_of(altered(gated, world=gated.dialogue.world, deadline_s=0.0)) as client:
        answer = asked(client, "you scum")
    assert answer["meta"]["text_source"] == "authored"
    assert answer["meta"]["reason"] == "forbidden_trigger"
    assert answer["delta"]["trust"] == -0.3


def test_a_streamed_fallback_begins_with_its_state(gate: httpx.Client) -> None:
    response = gate.post("/ask", json=ask_body("you scum", stream=True))
    events = read_events(response.text)
    assert events[0].name == "state"
    assert events[0].data["delta"] == {"trust": -0.3, "relationship": 0.0}
    assert events[-1].data["delta"] == events[0].data["delta"]
    assert [event.name for event in events].count("state") == 1


FEARS: list[dict[str, Any]] = [
    {
        "id": "fears",
        "type": "forbidden_trigger_list",
        "npc_id": "mina",
        "triggers": {"text": ["Where is the key of the lamp room hidden?"]},
    },
    {"id": "fears-meta", "type": "trigger_meta", "trigger": "fears", "delta": {"trust": -0.6}},
]


def test_a_keyword_goes_before_meaning(tiny_service: Service) -> None:
    """The word `scum` needs no encoder, and is what is told where both would fire."""
    documents = [msgspec.convert(d, Document) for d in [*DOCUMENTS, *TERMS[3:], *FEARS]]
    embedder = GramEmbedder()
    index, _ = open_index(documents, embedder)
    calibration = Calibration(embedder=embedder.id, note=0.9, same=0.8)
    retriever = Retriever(embedder, index, calibration)
    embedder.embedded.clear()
    with client_of(altered(tiny_service, world=World(documents), retriever=retriever)) as client:
        by_meaning = asked(client, "Where is the key of the lamp room hidden")
        assert by_meaning["meta"]["trigger"] == "fears"
        assert by_meaning["delta"]["trust"] == -0.6
        assert len(embedder.embedded) == 1
        for is_explained in (False, True):  # to explain, meaning is looked at all the same
            by_keyword = asked(
                client, "Where is the key of the lamp room hidden, scum", explain=is_explained
            )
            assert by_keyword["meta"]["trigger"] == "slurs"
            assert by_keyword["delta"]["trust"] == -0.3
            assert len(embedder.embedded) == 1 + is_explained
        assert "trigger" not in asked(client, "May I trim the lamp?")["meta"]
