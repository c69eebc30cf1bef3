"""`Idempotency-Key`: a POST that is sent again gets the answer of the first, not a second turn."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from operator import itemgetter
from typing import TypeAlias

from runtime.errors import EngineStopped, Overloaded
from server.errors import IdempotencyConflict
from server.pipeline import PipelineEvent
from server.shares import to_forget
from server.turn_events import Events

LIFETIME_S = 600.0
"""Seconds from its beginning for which a turn can be asked for again."""
MAX_TURNS = 1_024

Key: TypeAlias = tuple[str, str]
"""The owner's id, and the key."""


class Recording:
    """A turn that goes on whoever listens, and can be heard from its beginning at any time."""

    def __init__(self, events: Events) -> None:
        self._heard: list[PipelineEvent] = []
        self._error: Exception | None = None
        self._changed = asyncio.Event()
        self.task = asyncio.create_task(self._record(events))

    @property
    def has_failed(self) -> bool:
        """Whether the turn raised instead of answering."""
        return self._error is not None

    async def events(self) -> AsyncGenerator[PipelineEvent]:
        """All events from the first. Raises what the turn raises."""
        at = 0
        while True:
            changed = self._changed
            while at < len(self._heard):
                yield self._heard[at]
                at += 1
            if self.task.done():
                break
            await changed.wait()
        if self._error is not None:
            raise self._error

    async def _record(self, events: Events) -> None:
        try:
            async with aclosing(events):
                async for event in events:
                    self._heard.append(event)
                    self._tell()
        except asyncio.CancelledError:
            self._error = EngineStopped("the server ends")
            raise
        except Exception as error:
            self._error = error
        finally:
            asyncio.get_running_loop().call_soon(self._tell)  # the task is done by then

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass(frozen=True, slots=True)
class _Entry:
    request: bytes
    recording: Recording
    start: float


class Idempotency:
    """The turns of the last LIFETIME_S, at most `limit`.

    Of the API key that has most, the one begun first is forgotten first.
    """

    def __init__(self, limit: int = MAX_TURNS, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit, self._clock = limit, clock
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def turn(
        self, key: Key, request: bytes, begin: Callable[[], Events]
    ) -> tuple[AsyncGenerator[PipelineEvent], bool]:
        """The events of the turn that first came with `key`, and whether it came before.

        `request` is what was asked for, hashed. A turn that raised is begun again. Raises
        IdempotencyConflict, Overloaded where `limit` turns run, or what `begin` raises.
        """
        self._forget_old()
        entry = self._entries.get(key)
        if entry is not None and not entry.recording.has_failed:
            if entry.request != request:
                raise IdempotencyConflict(
                    f"Idempotency-Key {key[1]!r} came with another body or session before; "
                    "make a new key for each turn"
                )
            return entry.recording.events(), True
        if len(self._entries) >= self._limit and not self._over():
            raise Overloaded(f"{self._limit} turns with an Idempotency-Key are in flight")
        entry = _Entry(request, Recording(begin()), self._clock())
        self._entries[key] = entry
        self._entries.move_to_end(key)
        self._forget_excess()
        return entry.recording.events(), False

    async def close(self) -> None:
        """Break off what still runs."""
        tasks = [entry.recording.task for entry in self._entries.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._entries.clear()

    def _over(self) -> list[Key]:
        """The turns that have ended."""
        return [key for key, entry in self._entries.items() if entry.recording.task.done()]

    def _forget_old(self) -> None:
        horizon = self._clock() - LIFETIME_S
        for key, entry in list(self._entries.items()):
            if entry.start > horizon:
                break
            if entry.recording.task.done():
                del self._entries[key]

    def _forget_excess(self) -> None:
        excess = len(self._entries) - self._limit
        if excess > 0:
            for key in to_forget(self._over(), excess, owner_of=itemgetter(0)):
                del self._entries[key]
