"""Requests from other threads and from asyncio: events arrive, and leaving cancels."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any

import pytest

from runtime.engine import Engine
from runtime.errors import EngineStopped, Overloaded
from runtime.llama_backend import LlamaModel
from runtime.sequence import Done, Event, FinishReason, Request, State, Token
from runtime.stats import EngineStats
from tests.runtime.conversation import prompts, request
from tests.runtime.driving import SMALL, greedy, make_encoder, running
from tests.runtime.scripted import script_samplers

PROMPT = [5, 6, 7]
IDLE = EngineStats(0, 0, 0, SMALL.n_ctx, 0, 0)
ENDLESS = Request(PROMPT, greedy(1900))


def run(work: Coroutine[Any, Any, None]) -> None:
    """Runs a coroutine; a test that hangs fails."""
    asyncio.run(asyncio.wait_for(work, timeout=60))


async def collect(engine: Engine, asked: Request) -> list[Event]:
    """All events of a request."""
    return [event async for event in engine.stream(asked)]


async def exhaust(events: AsyncGenerator[Event]) -> None:
    """Reads on until the end."""
    async for _ in events:
        pass


async def settle(engine: Engine) -> None:
    """A request that comes later and is over: the engine has taken note of all before it."""
    await collect(engine, Request(PROMPT, greedy(1)))


@pytest.fixture
def _endless(monkeypatch: pytest.MonkeyPatch) -> None:
    script_samplers(monkeypatch, [40, 41])


def test_text_is_told_when_it_is_due_and_all_of_it_before_the_end(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_samplers(monkeypatch, [40, 41, 42, 43, 44])
    asked = Request(PROMPT, greedy(5))
    with running(qwen) as engine:

        def texts(of: Request) -> list[str]:
            return [event.text for event in engine.run(of) if isinstance(event, Token)]

        pieces = texts(asked)
        assert len(pieces) == 5
        line = "".join(pieces)
        every_other = iter([False, True, False, True, False])
        pairs = texts(replace(asked, is_due=lambda _: next(every_other)))
        assert pairs == [line[:2], line[2:4], line[4:]]
        assert texts(replace(asked, is_due=lambda _: False)) == [line]
        assert texts(replace(asked, is_due=lambda _: True)) == pieces


def test_a_stream_gives_state_then_text_then_done(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    asked = request(encoder, prompts(encoder)[0])
    with running(qwen) as engine:
        events = asyncio.run(collect(engine, asked))
        again = list(engine.run(asked))
    assert isinstance(events[0], State)
    assert all(isinstance(event, Token) for event in events[1:-1])
    assert isinstance(events[-1], Done)
    assert [e for e in events if isinstance(e, Token)] == [e for e in again if isinstance(e, Token)]


def test_fifty_streams_at_once_all_finish_and_leave_nothing(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    asked = [request(encoder, prompts(encoder)[number % 4], greedy(8)) for number in range(50)]

    async def work() -> None:
        streams = await asyncio.gather(*(collect(engine, each) for each in asked))
        assert all(isinstance(events[0], State) for events in streams)
        reasons = [events[-1].finish_reason for events in streams if isinstance(events[-1], Done)]
        assert len(reasons) == 50
        assert set(reasons) <= {FinishReason.STOP, FinishReason.LENGTH}

    with running(qwen) as engine:
        run(work())
        assert engine.stats == IDLE


@pytest.mark.usefixtures("_endless")
def test_closing_a_stream_cancels_its_request(qwen: LlamaModel) -> None:
    async def work() -> None:
        async with aclosing(engine.stream(ENDLESS)) as events:
            async for _ in events:
                break
        await settle(engine)
        assert engine.stats == IDLE

    with running(qwen) as engine:
        run(work())


@pytest.mark.usefixtures("_endless")
def test_cancelling_the_task_that_reads_a_stream_cancels_its_request(qwen: LlamaModel) -> None:
    async def work() -> None:
        has_begun = asyncio.Event()

        async def read() -> None:
            async for _ in engine.stream(ENDLESS):
                has_begun.set()

        task = asyncio.create_task(read())
        await has_begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await settle(engine)
        assert engine.stats == IDLE

    with running(qwen) as engine:
        run(work())


@pytest.mark.usefixtures("_endless")
def test_closing_the_blocking_iterator_cancels_its_request(qwen: LlamaModel) -> None:
    with running(qwen) as engine:
        with closing(engine.run(ENDLESS)) as events:
            next(events)
        list(engine.run(Request(PROMPT, greedy(1))))
        assert engine.stats == IDLE


@pytest.mark.usefixtures("_endless")
def test_a_closed_event_loop_cancels_its_requests(qwen: LlamaModel) -> None:
    loop = asyncio.new_event_loop()

    def emit(event: Event) -> None:
        loop.call_soon_threadsafe(print, event)

    with running(qwen) as engine:
        engine.submit(ENDLESS, emit)
        loop.close()
        list(engine.run(Request(PROMPT, greedy(1))))
        list(engine.run(Request(PROMPT, greedy(1))))
        assert engine.stats == IDLE


@pytest.mark.usefixtures("_endless")
def test_a_stream_that_is_open_when_the_engine_closes_raises(qwen: LlamaModel) -> None:
    async def work() -> None:
        events = engine.stream(ENDLESS)
        await anext(events)
        engine.close()
        with pytest.raises(EngineStopped):
            await exhaust(events)

    with running(qwen) as engine:
        run(work())


@pytest.mark.usefixtures("_endless")
def test_a_stream_too_many_is_overloaded_and_the_others_finish(qwen: LlamaModel) -> None:
    asked = Request(PROMPT, greedy(20))

    async def work() -> None:
        outcomes = await asyncio.gather(
            *(collect(engine, asked) for _ in range(12)), return_exceptions=True
        )
        refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert 0 < len(refused) < 12
        assert all(isinstance(error, Overloaded) for error in refused)

    config = replace(SMALL, n_seq_max=1)
    with running(qwen, config, max_waiting=2) as engine:
        run(work())
        assert engine.stats == IDLE


def test_an_error_of_the_callback_is_raised_from_the_stream(qwen: LlamaModel) -> None:
    def on_state(_: object) -> list[int]:
        raise LookupError("no such flag")

    asked = Request(PROMPT, greedy(5), on_state)
    with running(qwen) as engine:
        with pytest.raises(LookupError, match="no such flag"):
            asyncio.run(collect(engine, asked))
        with pytest.raises(LookupError, match="no such flag"):
            list(engine.run(asked))
        assert engine.stats == IDLE
