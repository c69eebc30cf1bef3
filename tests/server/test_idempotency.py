import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from runtime.errors import Overloaded
from server.errors import IdempotencyConflict
from server.idempotency import LIFETIME_S, Idempotency
from server.pipeline import PipelineEvent
from server.rates import RateLimit
from server.schemas import TokenEvent
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
    read_events,
    served,
    wait_until,
)

KEY = {"Idempotency-Key": "turn-1"}


def test_a_post_that_is_sent_again_gets_the_same_answer_and_no_second_turn(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    with client_of(altered(tiny_service)) as client:
        first, again = (client.post("/ask", json=ask_body(), headers=KEY) for _ in range(2))
        assert first.json() == again.json()
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert len(spy.requests) == 1
        other = client.post("/ask", json=ask_body(), headers={"Idempotency-Key": "turn-2"})
        assert other.json()["meta"]["turn_id"] != first.json()["meta"]["turn_id"]


def test_a_stream_is_replayed_from_its_beginning(tiny_service: Service) -> None:
    body = ask_body(stream=True)
    with client_of(altered(tiny_service)) as client:
        first, again = (client.post("/ask", json=body, headers=KEY).text for _ in range(2))
    assert first == again
    assert [event.name for event in read_events(again)][0::2][0] == "state"
    assert read_events(again)[-1].name == "done"


def test_another_body_with_the_same_key_is_a_conflict(tiny_service: Service) -> None:
    with client_of(altered(tiny_service)) as client:
        client.post("/ask", json=ask_body(), headers=KEY)
        response = client.post("/ask", json=ask_body("other words"), headers=KEY)
    assert "'turn-1'" in check_problem(response, 409, "idempotency_conflict")["detail"]


def test_another_session_with_the_same_key_is_a_conflict(tiny_service: Service) -> None:
    with client_of(altered(tiny_service)) as client:

        def ask(session: str, **body: Any) -> httpx.Response:
            headers = {"X-Session-ID": session, **KEY}
            return client.post("/ask", json=ask_body(**body), headers=headers)

        first = ask("game-1").json()
        assert "or session" in check_problem(ask("game-2"), 409, "idempotency_conflict")["detail"]
        assert ask("game-1").json() == first


@pytest.mark.parametrize("key", ["", "x" * 129])
def test_a_key_that_is_empty_or_too_long_is_refused(client: httpx.Client, key: str) -> None:
    response = client.post("/ask", json=ask_body(), headers={"Idempotency-Key": key})
    check_problem(response, 422, "invalid_field", "Idempotency-Key")


def test_those_that_come_meanwhile_join_the_turn(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, gate = Spy.on(monkeypatch), Gate()
    turn, are_replays = Idempotency.turn, list[bool]()

    def noted(*args: Any) -> Any:
        events, is_replay = turn(*args)
        are_replays.append(is_replay)
        return events, is_replay

    monkeypatch.setattr(Idempotency, "turn", noted)
    gated = altered(tiny_service, HookedHeads(tiny_service.loaded.heads, gate.wait))
    with served(gated) as url, ThreadPoolExecutor() as pool:

        def post() -> Any:
            return httpx.post(f"{url}/ask", json=ask_body(), headers=KEY, timeout=PATIENCE_S)

        posts = [pool.submit(post) for _ in range(4)]
        wait_until(lambda: len(are_replays) == len(posts))
        assert gate.reached.wait(PATIENCE_S)
        gate.opened.set()
        answers = [future.result().json() for future in posts]
    assert all(answer == answers[0] for answer in answers)
    assert are_replays == [False, True, True, True]
    assert len(spy.requests) == 1


def test_a_client_that_leaves_finds_its_turn_when_it_comes_back(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, gate = Spy.on(monkeypatch), Gate()
    gated = altered(tiny_service, HookedHeads(tiny_service.loaded.heads, gate.wait))
    with client_of(gated) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/ask", json=ask_body(), headers=KEY, timeout=0.3)
        assert gate.reached.wait(PATIENCE_S)
        gate.opened.set()
        answer = client.post("/ask", json=ask_body(), headers=KEY).json()
    assert answer["meta"]["valid"] is True
    assert len(spy.requests) == 1


def test_a_turn_that_was_refused_is_begun_again(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.player_rate = RateLimit("player", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body()).status_code == 200
        check_problem(client.post("/ask", json=ask_body(), headers=KEY), 429, "rate_limited")
        service.player_rate = None
        assert client.post("/ask", json=ask_body(), headers=KEY).status_code == 200


class Turns:
    """Turns of one event, begun on demand; each ends when the test lets it."""

    def __init__(self) -> None:
        self.num_begun = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def begin(self) -> AsyncGenerator[PipelineEvent]:
        self.num_begun += 1
        yield TokenEvent("hello")
        await self.may_end.wait()
        if self.error is not None:
            raise self.error


class Clock:
    """Time that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def heard(events: AsyncGenerator[PipelineEvent]) -> list[PipelineEvent]:
    return [event async for event in events]


def run(test: Callable[[Turns, Clock], Any]) -> None:
    async def main() -> None:
        await test(Turns(), Clock())

    asyncio.run(main())


def test_old_turns_are_forgotten_but_none_that_runs() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        table = Idempotency(clock=clock)
        table.turn(("", "a"), b"", turns.begin)
        clock.now = LIFETIME_S + 1
        events, is_replay = table.turn(("", "a"), b"", turns.begin)
        assert is_replay
        turns.may_end.set()
        assert await heard(events) == [TokenEvent("hello")]
        _, is_replay = table.turn(("", "a"), b"", turns.begin)
        assert (is_replay, turns.num_begun) == (False, 1), "the second has not run yet"
        await table.close()

    run(test)


def test_the_table_is_bounded_and_refuses_where_all_run() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        table = Idempotency(2, clock)
        first, _ = table.turn(("", "a"), b"", turns.begin)
        table.turn(("", "b"), b"", turns.begin)
        with pytest.raises(Overloaded):
            table.turn(("", "c"), b"", turns.begin)
        turns.may_end.set()
        await heard(first)
        table.turn(("", "c"), b"", turns.begin)
        assert len(table) == 2
        await table.close()

    run(test)


def test_who_has_most_turns_gives_way_and_a_replay_finds_the_oldest() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        table = Idempotency(4, clock)
        turns.may_end.set()
        for owner, key in [("one", "a"), *(("two", str(number)) for number in range(9))]:
            events, is_replay = table.turn((owner, key), b"", turns.begin)
            assert not is_replay
            await heard(events)
        assert len(table) == 4
        for kept in (("one", "a"), ("two", "6"), ("two", "7"), ("two", "8")):
            assert table.turn(kept, b"", turns.begin)[1], kept
        await table.close()

    run(test)


def test_a_turn_that_is_refused_pushes_none_out() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        def refuse() -> Any:
            raise Overloaded("the queue is full")

        table = Idempotency(1, clock)
        turns.may_end.set()
        await heard(table.turn(("", "a"), b"", turns.begin)[0])
        with pytest.raises(Overloaded):
            table.turn(("", "b"), b"", refuse)
        assert table.turn(("", "a"), b"", turns.begin)[1]
        await table.close()

    run(test)


def test_owners_do_not_share_keys_and_a_failed_turn_is_begun_again() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        table = Idempotency(clock=clock)
        turns.error = ValueError("it broke")
        events, _ = table.turn(("one", "a"), b"x", turns.begin)
        table.turn(("two", "a"), b"y", turns.begin)
        with pytest.raises(IdempotencyConflict):
            table.turn(("one", "a"), b"y", turns.begin)
        turns.may_end.set()
        with pytest.raises(ValueError, match="it broke"):
            await heard(events)
        _, is_replay = table.turn(("one", "a"), b"x", turns.begin)
        assert not is_replay
        await table.close()

    run(test)


def test_turns_that_run_at_the_end_are_broken_off_with_an_error() -> None:
    async def test(turns: Turns, clock: Clock) -> None:
        table = Idempotency(clock=clock)
        events, _ = table.turn(("", "a"), b"", turns.begin)
        assert await anext(events) == TokenEvent("hello")
        await table.close()
        with pytest.raises(Exception, match="the server ends"):
            await anext(events)

    run(test)


def test_a_recorded_turn_ends_with_its_server(tiny_service: Service) -> None:
    gate = Gate()
    gated = altered(tiny_service, HookedHeads(tiny_service.loaded.heads, gate.wait))
    with served(gated) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/ask", json=ask_body(), headers=KEY, timeout=0.3)
        assert gate.reached.wait(PATIENCE_S)
    gate.opened.set()
    wait_until(lambda: tiny_service.engine.stats.num_running == 0)
