import httpx
import pytest

from server.service import Service
from tests.server.serving import (
    ServerEvent,
    Spy,
    altered,
    ask_body,
    check_problem,
    client_of,
    is_idle,
    read_events,
    wait_until,
)


def stream(client: httpx.Client, accept: str = "text/event-stream") -> list[ServerEvent]:
    """The events of a turn."""
    response = client.post("/ask", json=ask_body(), headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    return read_events(response.text)


@pytest.mark.gemma
def test_a_stream_is_state_then_tokens_then_done_and_adds_up(gemma_client: httpx.Client) -> None:
    events = stream(gemma_client)
    names = [event.name for event in events]
    num_tokens = names.count("token")
    assert names == ["state", *["token"] * num_tokens, "done"]
    assert num_tokens > 0
    state, done = events[0].data, events[-1].data
    assert state.keys() == {"turn_id", "delta", "flags", "flags_detail"}
    assert all(event.data.keys() == {"text"} for event in events[1:-1])
    assert all(event.data["text"] for event in events[1:-1])
    assert "".join(event.data["text"] for event in events[1:-1]) == done["text"]
    assert (state["delta"], state["flags"]) == (done["delta"], done["flags"])
    assert state["flags_detail"] == done["meta"]["flags_detail"]
    assert state["turn_id"] == done["meta"]["turn_id"]


@pytest.mark.gemma
def test_a_streamed_turn_is_the_one_that_json_gives(
    gemma_client: httpx.Client, gemma_service: Service
) -> None:
    streamed = stream(gemma_client)[-1].data
    wait_until(lambda: is_idle(gemma_service.engine))
    whole = gemma_client.post("/ask", json=ask_body()).json()
    for varying in ("turn_id", "timings_ms"):
        streamed["meta"].pop(varying)
        whole["meta"].pop(varying)
    assert streamed == whole


def test_a_stream_is_asked_for_in_the_body_too(client: httpx.Client) -> None:
    response = client.post("/ask", json=ask_body(stream=True))
    assert [event.name for event in read_events(response.text)][-1] == "done"


def test_a_line_of_many_bytes_a_character_streams_whole(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = iter([b"\xec", b"\x95", b"\x88", b"\xeb\x85", b"\x95!", b"\n"])
    monkeypatch.setattr("runtime.llama_backend.LlamaModel.piece", lambda _, token: next(pieces))
    events = stream(client)
    assert [event.data["text"] for event in events[1:-1]] == ["안녕!"]
    assert events[-1].data["text"] == "안녕!"


def test_a_bad_request_is_a_problem_before_the_stream_begins(client: httpx.Client) -> None:
    headers = {"Accept": "text/event-stream"}
    response = client.post("/ask", json=ask_body(npc_id="nobody"), headers=headers)
    check_problem(response, 404, "unknown_npc")


def test_a_fallback_streams_its_line_and_says_so_in_done(tiny_service: Service) -> None:
    with client_of(altered(tiny_service, deadline_s=0.0)) as client:
        events = stream(client)
    assert [event.name for event in events] == ["state", "token", "done"]
    state, token, done = (event.data for event in events)
    assert done["text"] == token["text"]
    assert (state["delta"], state["flags"]) == (done["delta"], done["flags"])
    assert (done["meta"]["valid"], done["meta"]["path"]) == (False, "fallback")


def test_sentences_come_while_the_line_is_still_being_spoken(
    tiny_service: Service, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runtime.llama_backend.LlamaModel.piece", lambda _, token: b"Aye. ")
    spy = Spy.on(monkeypatch)
    body = ask_body(stream=True, gen_params={"max_tokens": 4, "temperature": 0})
    arrived: list[str] = []
    with client.stream("POST", "/ask", json=body) as response:
        for line in response.iter_lines():
            if line.startswith("event: "):
                arrived.append(line.removeprefix("event: "))
                assert arrived[0] == "state"
    assert arrived == ["state", "token", "token", "token", "token", "done"]
    assert len(spy.events) == 5, "the engine tells the first two sentences together"
