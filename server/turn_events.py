"""The events of one turn on their way to a client: held, counted, recorded, streamed."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, suppress
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from server.errors import problem_of
from server.loaded import Loaded
from server.pipeline import PipelineEvent
from server.schemas import Answer, StateEvent, TokenEvent

EVENT_STREAM = "text/event-stream"
HEARTBEAT_S = 10.0
"""After so long without an event a comment is sent, so that nobody between takes us for dead."""

_HEARTBEAT = b": keep-alive\n\n"
_NO_BUFFER = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_NAMES: dict[type, str] = {StateEvent: "state", TokenEvent: "token", Answer: "done"}

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Events(Protocol):
    """Events of a turn, to be closed by who reads them, whether or not any was read."""

    def __aiter__(self) -> AsyncIterator[PipelineEvent]: ...
    async def __anext__(self) -> PipelineEvent: ...
    async def aclose(self) -> None:
        """Break the turn off if it is not over."""


class HeldEvents:
    """The events of a turn; the bundle that it runs on is in use until they are closed."""

    def __init__(
        self,
        events: AsyncGenerator[PipelineEvent],
        loaded: Loaded,
        on_answer: Callable[[Answer], None],
    ) -> None:
        self._events, self._loaded, self._on_answer = events, loaded, on_answer
        self._is_closed = False
        loaded.take()

    def __aiter__(self) -> AsyncIterator[PipelineEvent]:
        return self

    async def __anext__(self) -> PipelineEvent:
        event = await anext(self._events)
        if isinstance(event, Answer):
            self._on_answer(event)
        return event

    async def aclose(self) -> None:
        """See Events."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            await self._events.aclose()
        finally:
            self._loaded.release()


async def answer_of(events: Events) -> Answer:
    """The answer that ends a turn."""
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Answer):
                return event
    raise AssertionError("a turn ends with an answer")


class EventStream(StreamingResponse):
    """A turn as server-sent events. `first` is the turn's first event, as it comes."""

    def __init__(self, first: "asyncio.Future[PipelineEvent]", events: Events) -> None:
        self._first, self._events = first, events
        super().__init__(self._parts(), media_type=EVENT_STREAM, headers=_NO_BUFFER)

    @classmethod
    async def begin(cls, events: Events) -> "EventStream":
        """Wait for the first event, but not for ever.

        Raises what the turn raises: it can still be told by the status.
        """
        first = _next(events)
        try:
            await asyncio.wait({first}, timeout=HEARTBEAT_S)
            if first.done():
                first.result()
        except BaseException:
            await _leave(first, events)
            raise
        return cls(first, events)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await _leave(self._first, self._events)

    async def _parts(self) -> AsyncIterator[bytes]:
        try:
            while True:
                while not (await asyncio.wait({self._first}, timeout=HEARTBEAT_S))[0]:
                    yield _HEARTBEAT
                try:
                    event = self._first.result()
                except StopAsyncIteration:
                    return
                yield _part(_NAMES[type(event)], event)
                self._first = _next(self._events)
        except Exception as error:  # the status was sent: what is left is to say so in the stream
            logger.warning("a stream ends with an error: %r", error)
            yield _part("error", problem_of(error))


def _next(events: Events) -> "asyncio.Future[PipelineEvent]":
    async def get() -> PipelineEvent:
        return await anext(events)

    return asyncio.create_task(get())


async def _leave(first: "asyncio.Future[PipelineEvent]", events: Events) -> None:
    first.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await first
    await events.aclose()


def _part(name: str, content: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(content))


async def unless_gone(request: Request, answer: Coroutine[None, None, T]) -> T:
    """What `answer` comes to; if the client goes away first it is cancelled: ClientDisconnect."""
    work = asyncio.create_task(answer)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
