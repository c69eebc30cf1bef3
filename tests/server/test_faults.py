import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from rag.documents import NpcPersona
from rag.world import World
from runtime.errors import DecodeError
from runtime.sequence import Done, FinishReason, State
from server.service import Service
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    HookedHeads,
    Spy,
    altered,
    ask_body,
    check_problem,
    client_of,
    is_idle,
    opened,
    read_events,
    served,
    wait_until,
)
from tests.server.small_world import LINES

ROOK = NpcPersona(id="rook", npc_id="rook", name="Rook", persona="A ferryman", style="Terse")
NO_CHANGE = {"trust": 0.0, "relationship": 0.0}


def check_fallback(answer: dict[str, Any], reason: str) -> None:
    """An authored line that changes nothing and says why."""
    meta = answer["meta"]
    assert (meta["valid"], meta["path"], meta["reason"]) == (False, "fallback", reason)
    assert meta["text_source"] == "authored"
    assert answer["delta"] == NO_CHANGE
    assert set(answer["flags"].values()) == {False}
    assert meta["flags_detail"] == {}
    assert answer["text"] in LINES["en"]
    assert (meta["npc_action"], meta["npc_emotion"]) == ("lifts the lantern", "wary")


@pytest.fixture
def narrow(tiny_bundle: Path, small_world: Path) -> Iterator[Service]:
    """A service that runs one request and lets one wait."""
    with opened(tiny_bundle, small_world, n_sequences=1, max_waiting=1) as service:
        yield service


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A gate that never stays shut."""
    gate = Gate()
    yield gate
    gate.opened.set()


def gated(service: Service, gate: Gate, **dialogue: Any) -> Service:
    """The service, its heads stopping at the gate."""
    return altered(service, HookedHeads(service.loaded.heads, gate.wait), **dialogue)


def while_full(
    service: Service, gate: Gate, url: str, then: Callable[[], httpx.Response]
) -> httpx.Response:
    """What comes of `then` while one request runs and one waits; both must be answered after."""
    with ThreadPoolExecutor() as pool:

        def post(player: str) -> httpx.Response:
            body = ask_body(player_id=player)
            return httpx.post(f"{url}/ask", json=body, timeout=PATIENCE_S)

        running = pool.submit(post, "runs")
        assert gate.reached.wait(PATIENCE_S)
        waiting = pool.submit(post, "waits")
        wait_until(lambda: service.engine.stats.num_waiting == 1)
        try:
            response = then()
        finally:
            gate.opened.set()
        for future in (running, waiting):
            assert future.result().json()["meta"]["valid"] is True
    return response


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_overload_is_an_authored_line(narrow: Service, gate: Gate, is_stream: bool) -> None:
    with served(gated(narrow, gate)) as url:
        body = ask_body(stream=is_stream)
        response = while_full(narrow, gate, url, lambda: httpx.post(f"{url}/ask", json=body))
    assert response.status_code == 200
    answer = read_events(response.text)[-1].data if is_stream else response.json()
    check_fallback(answer, "overloaded")


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_overload_is_refused_at_once_where_the_settings_say_so(
    narrow: Service, gate: Gate, is_stream: bool
) -> None:
    with served(gated(narrow, gate, on_overload="reject")) as url:
        body = ask_body(stream=is_stream)
        response = while_full(narrow, gate, url, lambda: httpx.post(f"{url}/ask", json=body))
    check_problem(response, 429, "overloaded")
    assert int(response.headers["retry-after"]) > 0


def test_a_raw_prompt_has_no_world_to_fall_back_on(narrow: Service, gate: Gate) -> None:
    with served(gated(narrow, gate)) as url:
        body = {"prompt": "<PLAYER>hello<STATE>"}
        post = lambda: httpx.post(f"{url}/predict_main", json=body)  # noqa: E731
        response = while_full(narrow, gate, url, post)
    check_problem(response, 429, "overloaded")


def test_a_deadline_before_the_state_is_an_authored_line(tiny_service: Service) -> None:
    with client_of(altered(tiny_service, deadline_s=0.0)) as client:
        response = client.post("/ask", json=ask_body())
    assert response.status_code == 200
    check_fallback(response.json(), "deadline")
    assert is_idle(tiny_service.engine)


def test_no_session_hears_the_same_authored_line_twice_in_a_row(tiny_service: Service) -> None:
    with client_of(altered(tiny_service, deadline_s=0.0)) as client:

        def line(text: str, session: str = "one") -> str:
            answer: dict[str, str] = client.post(
                "/ask", json=ask_body(text, session_id=session)
            ).json()
            return answer["text"]

        said = [line("hello") for _ in range(6)]
        assert all(one != other for one, other in pairwise(said))
        assert {line(f"hello {number}") for number in range(12)} == set(LINES["en"])
        assert line("안녕") in LINES["ko"]


def test_where_no_line_is_authored_an_npc_is_still_not_silent(tiny_service: Service) -> None:
    mute = World([ROOK])
    with client_of(altered(tiny_service, deadline_s=0.0, world=mute)) as client:
        answer = client.post("/ask", json=ask_body(npc_id="rook")).json()
    assert answer["text"] == "…"
    assert "npc_action" not in answer["meta"]


class Clock:
    """The engine's clock, which can be set forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def pass_deadline(self) -> None:
        self.ahead = 1e6


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock in the engine's hand."""
    clock = Clock()
    monkeypatch.setattr("runtime.engine.time", SimpleNamespace(monotonic=clock.monotonic))
    return clock


def test_a_deadline_after_the_state_replaces_words_only(
    tiny_service: Service, clock: Clock
) -> None:
    late = HookedHeads(tiny_service.loaded.heads, clock.pass_deadline)
    with client_of(altered(tiny_service, late)) as client:
        events = read_events(client.post("/ask", json=ask_body(stream=True)).text)
    assert [event.name for event in events] == ["state", "token", "done"]
    state, done = events[0].data, events[-1].data
    meta = done["meta"]
    assert (meta["valid"], meta["path"], meta["reason"]) == (True, "main", None)
    assert (meta["text_source"], done["text"] in LINES["en"]) == ("authored", True)
    assert (done["delta"], done["flags"]) == (state["delta"], state["flags"])
    assert meta["flags_detail"] == state["flags_detail"] != {}
    assert is_idle(tiny_service.engine)


def test_a_deadline_midway_leaves_what_was_said(
    tiny_service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[int] = []

    def say(_: object, token: int) -> bytes:
        said.append(token)
        if len(said) == 2:
            clock.pass_deadline()
        return b"so "

    monkeypatch.setattr("runtime.llama_backend.LlamaModel.piece", say)
    with client_of(tiny_service) as client:
        answer = client.post("/ask", json=ask_body()).json()
    assert len(said) == 2
    assert answer["text"] == "so…"
    assert (answer["meta"]["text_source"], answer["meta"]["truncated"]) == ("model", True)


def test_heads_that_fail_are_an_authored_line(tiny_service: Service) -> None:
    def fail() -> None:
        raise ValueError("no number")

    with client_of(altered(tiny_service, HookedHeads(tiny_service.loaded.heads, fail))) as client:
        answer = client.post("/ask", json=ask_body()).json()
    check_fallback(answer, "engine_error")
    assert is_idle(tiny_service.engine)


@pytest.mark.parametrize("is_after_state", [False, True])
def test_a_fault_of_llama_cpp_never_takes_a_state_back(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch, is_after_state: bool
) -> None:
    spy = Spy.on(monkeypatch)
    decode = type(tiny_service.engine._context).decode

    def failing(*args: Any, **options: Any) -> Any:
        if is_after_state and not any(isinstance(event, State) for event in spy.events):
            return decode(*args, **options)
        raise DecodeError(-3)

    monkeypatch.setattr("runtime.llama_backend.LlamaContext.decode", failing)
    with client_of(tiny_service) as client:
        events = read_events(client.post("/ask", json=ask_body(stream=True)).text)
    done = events[-1].data
    if is_after_state:
        assert [event.name for event in events] == ["state", "token", "done"]
        assert (done["meta"]["valid"], done["meta"]["text_source"]) == (True, "authored")
        assert done["delta"] == events[0].data["delta"]
    else:
        check_fallback(done, "engine_error")
    assert is_idle(tiny_service.engine)


def test_a_prompt_that_cannot_fit_is_an_authored_line(tiny_service: Service) -> None:
    items = ["a very long thing of iron " * 7] * 64
    with client_of(tiny_service) as client:
        response = client.post("/ask", json=ask_body(context={"player_state": {"items": items}}))
    assert response.status_code == 200
    check_fallback(response.json(), "prompt_too_long")


def test_a_stopped_engine_is_not_ready_but_no_npc_is_silent(
    tiny_bundle: Path, small_world: Path
) -> None:
    with opened(tiny_bundle, small_world) as service:
        service.engine.close()
        with client_of(service) as client:
            check_problem(client.get("/readyz"), 503, "not_ready")
            assert client.get("/healthz").status_code == 200
            check_fallback(client.post("/ask", json=ask_body()).json(), "engine_error")
        with client_of(altered(service, on_overload="reject")) as client:
            response = client.post("/ask", json=ask_body())
    check_problem(response, 503, "not_ready")
    assert int(response.headers["retry-after"]) > 0


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_leaves_before_the_state_frees_its_sequence(
    tiny_service: Service, gate: Gate, monkeypatch: pytest.MonkeyPatch, is_stream: bool
) -> None:
    spy = Spy.on(monkeypatch)
    with served(gated(tiny_service, gate)) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/ask", json=ask_body(stream=is_stream), timeout=0.3)
        assert gate.reached.wait(PATIENCE_S)
        check_is_cancelled(spy, gate, tiny_service)


def test_a_client_that_leaves_midway_frees_its_sequence(
    tiny_service: Service, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    spy.on_event = lambda event: gate.wait() if isinstance(event, State) else None
    with served(tiny_service) as url:
        body = ask_body(stream=True, gen_params={"max_tokens": 512, "temperature": 0})
        with httpx.stream("POST", f"{url}/ask", json=body, timeout=PATIENCE_S) as response:
            assert next(response.iter_lines()) == "event: state"
        check_is_cancelled(spy, gate, tiny_service)


def check_is_cancelled(spy: Spy, gate: Gate, service: Service) -> None:
    """The server has noticed; the engine, let go on, ends the request and nothing is left."""
    (sequence,) = spy.sequences
    wait_until(lambda: sequence.is_cancelled)
    gate.opened.set()
    wait_until(lambda: any(isinstance(event, Done) for event in spy.events))
    wait_until(lambda: is_idle(service.engine))
    (done,) = [event for event in spy.events if isinstance(event, Done)]
    assert done.finish_reason is FinishReason.CANCELLED
    assert len(done.tokens) <= 1
    assert service.engine.stats.num_free_cells == service.settings.n_ctx
