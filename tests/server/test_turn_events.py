"""What a turn's events go through on their way out: heartbeats, deadlines, sessions named twice."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from runtime.errors import EngineStopped
from server import turn_events
from server.pipeline import Dialogue
from server.service import Service
from server.sessions import Sessions
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    HookedHeads,
    altered,
    ask_body,
    check_problem,
    client_of,
    read_events,
    served,
    wait_until,
)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.opened.set()


def gated(service: Service, gate: Gate, **dialogue: Any) -> Service:
    heads = HookedHeads(service.loaded.heads, gate.wait)
    return altered(service, heads, sessions=Sessions(), **dialogue)


def test_a_stream_that_waits_says_that_it_is_alive(
    tiny_service: Service, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_events, "HEARTBEAT_S", 0.05)
    with client_of(gated(tiny_service, gate)) as client:
        text = ""
        with client.stream("POST", "/ask", json=ask_body(stream=True)) as response:
            for part in response.iter_text():
                text += part
                if text.count(": keep-alive\n\n") == 3:
                    gate.opened.set()
    beats, events = text.rsplit(": keep-alive\n\n", 1)
    assert beats.replace(": keep-alive\n\n", "") == ""
    assert read_events(events)[0].name == "state"
    assert read_events(events)[-1].data["meta"]["valid"] is True


def test_an_error_after_the_first_heartbeat_is_told_in_the_stream(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turn_events, "HEARTBEAT_S", 0.05)

    async def fail(*_: Any) -> None:
        await asyncio.sleep(0.2)
        raise EngineStopped("it stopped")

    monkeypatch.setattr(Dialogue, "_hear", fail)
    with client_of(altered(tiny_service, on_overload="reject")) as client:
        response = client.post("/ask", json=ask_body(stream=True))
    assert response.status_code == 200
    (event,) = read_events(response.text.replace(": keep-alive\n\n", ""))
    assert event.name == "error"
    assert event.data["code"] == "not_ready"


def test_the_client_may_allow_less_time_than_the_server(tiny_service: Service) -> None:
    late: tuple[tuple[dict[str, str], int | None], ...] = (({"X-Deadline-Ms": "1"}, None), ({}, 1))
    slow = HookedHeads(tiny_service.loaded.heads, lambda: time.sleep(0.05))
    with client_of(altered(tiny_service, slow)) as client:
        for headers, deadline_ms in late:
            body = ask_body(deadline_ms=deadline_ms)
            answer = client.post("/ask", json=body, headers=headers).json()
            assert answer["text"]
            assert answer["meta"]["text_source"] == "authored"
        assert client.post("/ask", json=ask_body()).json()["meta"]["valid"] is True


def test_a_turn_that_waits_for_another_past_its_deadline_gets_a_line(
    tiny_service: Service, gate: Gate
) -> None:
    with served(gated(tiny_service, gate, on_overload="reject")) as url, ThreadPoolExecutor() as p:
        first = p.submit(httpx.post, f"{url}/ask", json=ask_body(), timeout=PATIENCE_S)
        assert gate.reached.wait(PATIENCE_S)
        answer = httpx.post(f"{url}/ask", json=ask_body(deadline_ms=50)).json()
        gate.opened.set()
        assert first.result().json()["meta"]["valid"] is True
    assert answer["meta"]["reason"] == "deadline"
    assert answer["meta"]["text_source"] == "authored"


@pytest.mark.parametrize("given", ["", "0", "-5", "1.5", "soon", "9" * 10, "²"])
def test_a_deadline_that_is_no_number_of_milliseconds_is_refused(
    client: httpx.Client, given: str
) -> None:
    headers = {b"X-Deadline-Ms": given.encode()}
    response = client.post("/ask", json=ask_body(), headers=headers)
    check_problem(response, 422, "invalid_field", "X-Deadline-Ms")


def test_a_session_may_be_named_by_the_header_alone(client: httpx.Client) -> None:
    headers = {"X-Session-ID": "camp-fire"}
    answer = client.post("/ask", json=ask_body(), headers=headers).json()
    assert answer["meta"]["session_id"] == "camp-fire"
    both = client.post("/ask", json=ask_body(session_id="camp-fire"), headers=headers)
    assert both.status_code == 200
    other = client.post("/ask", json=ask_body(session_id="tavern"), headers=headers)
    problem = check_problem(other, 422, "invalid_field", "$.session_id")
    assert "'tavern'" in problem["detail"]
    assert "'camp-fire'" in problem["detail"]


def test_a_session_that_the_client_believes_in_and_nobody_remembers_is_lost(
    tiny_service: Service,
) -> None:
    def history(client: httpx.Client, **fields: Any) -> str:
        body = {**ask_body(session_id="lost?"), **fields}
        found: str = client.post("/ask", json=body).json()["meta"]["history"]
        return found

    told = [{"player": "hello", "npc": "Good day."}]
    with client_of(altered(tiny_service)) as client:
        assert history(client, dialogue_history=None, continues=True) == "lost"
        assert history(client, dialogue_history=None, continues=True) == "continued"
        assert history(client, dialogue_history=[], continues=True) == "fresh"
        assert history(client, dialogue_history=told, continues=True) == "rebuilt"


def test_nothing_is_held_once_a_client_has_left(tiny_service: Service, gate: Gate) -> None:
    service = gated(tiny_service, gate)
    with served(service) as url:
        for stream in (False, True):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/ask", json=ask_body(stream=stream), timeout=0.3)
        gate.opened.set()
        wait_until(lambda: service.loaded.num_users == 0)
