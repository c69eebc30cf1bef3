"""Runs the sentence encoder beside the event loop, on threads of its own, up to a deadline.

The loop's default threads do what is rare, such as a reload: it must not wait for players.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from runtime.errors import Overloaded
from runtime.host import num_cores

T = TypeVar("T")

GRACE_S = 0.5
"""Beyond a turn's deadline, for the check of what was said when it came."""


class EncoderThreads:
    """As many threads as there are cores for what players say, as many for what NPCs are to say.

    So no line that is under way waits for the remarks of turns that have yet to begin. Of these at
    most `max_waiting` wait for a thread. What nobody waits for any more is never begun.
    """

    def __init__(self, max_waiting: int = 64) -> None:
        num_threads = num_cores()
        self._most_heard = num_threads + max_waiting
        self._num_heard = 0
        self._hearing = ThreadPoolExecutor(num_threads, "hearing")
        self._checking = ThreadPoolExecutor(num_threads, "checking")

    async def hear(self, work: Callable[[], T], deadline: float | None = None) -> T:
        """What `work` makes of a remark.

        Raises Overloaded if too many wait already, TimeoutError at `deadline` (`time.monotonic()`).
        """
        if self._num_heard >= self._most_heard:
            raise Overloaded(f"{self._num_heard} remarks are to be heard already; try again later")
        self._num_heard += 1
        try:
            return await _run(self._hearing, work, deadline)
        finally:
            self._num_heard -= 1

    async def check(self, work: Callable[[], T], deadline: float | None = None) -> T:
        """What `work` makes of a sentence. Raises TimeoutError, GRACE_S after `deadline`."""
        return await _run(self._checking, work, None if deadline is None else deadline + GRACE_S)

    def close(self) -> None:
        """End the threads, once what they are at is done."""
        for pool in (self._hearing, self._checking):
            pool.shutdown(cancel_futures=True)


async def _run(pool: Executor, work: Callable[[], T], deadline: float | None) -> T:
    left_s = None if deadline is None else deadline - time.monotonic()
    async with asyncio.timeout(left_s):
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(pool, partial(copy_context().run, work))
