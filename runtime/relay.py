"""Events on their way from the engine's thread to a coroutine."""

import asyncio
from collections import deque

from runtime.sequence import Event


class EventRelay:
    """A queue from any thread to the event loop that made it.

    However many events are put before the loop comes round to them, it is woken once.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()
        self._is_waking = False

    def put(self, event: Event) -> None:
        """Add an event, from any thread. Raises RuntimeError if the loop is closed."""
        if self._loop.is_closed():
            raise RuntimeError("the event loop is closed: nobody listens any more")
        self._events.append(event)
        if not self._is_waking:  # else what is about to wake finds this event too
            self._is_waking = True
            self._loop.call_soon_threadsafe(self._wake)

    async def get(self) -> Event:
        """The oldest event, as soon as there is one."""
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()

    def _wake(self) -> None:
        self._is_waking = False
        self._arrived.set()
