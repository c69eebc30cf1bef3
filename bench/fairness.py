"""How much a running reply stutters while somebody's long prompt is read, on the engine alone."""

import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from runtime.engine import Engine
from runtime.errors import RuntimeFault
from runtime.sampling import SamplingParams
from runtime.sequence import Done, Event, Failed, Request, Token

NUM_QUIET = 48
"""Tokens of the reply before the newcomer comes."""
_NUM_SKIPPED = 4
"""Of them, those that the first steps give: caches are cold yet."""
_MAX_TOKENS = 2_048


class ReplyTooShort(RuntimeFault):
    """The reply ended before the newcomer's prompt was read."""


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seconds between two tokens of the reply, before the newcomer came and meanwhile.

    `newcomer_s` is from there to the newcomer's first token.
    """

    quiet: list[float]
    busy: list[float]
    newcomer_s: float

    @property
    def quiet_median(self) -> float:
        """Median, in seconds, of the quiet gaps."""
        return float(np.median(self.quiet))

    @property
    def busy_p95(self) -> float:
        """95th percentile, in seconds, of the busy gaps."""
        return float(np.quantile(self.busy, 0.95))

    @property
    def longest(self) -> float:
        """The longest, in seconds, of the busy gaps."""
        return max(self.busy)


@dataclass(frozen=True, slots=True)
class _Listener:
    """Notes when each token of a request came, on the engine's own thread."""

    times: list[float] = field(default_factory=list)
    events: "queue.SimpleQueue[Event]" = field(default_factory=queue.SimpleQueue)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Token):
            self.times.append(time.monotonic())
        self.events.put(event)

    def wait_for(self, num_tokens: int) -> None:
        """Until so many tokens came. Raises ReplyTooShort, or what the request failed by."""
        while len(self.times) < num_tokens:
            event = self.events.get()
            if isinstance(event, Failed):
                raise event.error
            if isinstance(event, Done):
                raise ReplyTooShort(
                    f"the reply ended after {len(self.times)} of {num_tokens} tokens"
                )

    def wait_for_end(self) -> None:
        """Until the request is over."""
        while not isinstance(self.events.get(), Done | Failed):
            pass


def measure_gaps(engine: Engine, reply: Sequence[int], newcomer: Sequence[int]) -> Gaps:
    """Let a reply to the prompt `reply` run, and the prompt `newcomer` arrive in the midst of it.

    The engine must be idle and its model never end, a letter a token (raw_loops.EndlessModel). The
    last token of `newcomer` stands for `<STATE>`.
    """
    running, arriving = _Listener(), _Listener()
    sampling = SamplingParams(max_tokens=_MAX_TOKENS, seed=0)
    sequence = engine.submit(Request(reply, sampling), running)
    try:
        running.wait_for(NUM_QUIET)
        start = time.monotonic()
        once = SamplingParams(max_tokens=1, seed=1)
        engine.submit(Request(newcomer, once, lambda _: [newcomer[-1]]), arriving)
        arriving.wait_for(1)
        running.wait_for(len(running.times) + 1)
    finally:
        engine.cancel(sequence)
    running.wait_for_end()
    gaps, end = list(pairwise(running.times)), arriving.times[0]
    return Gaps(
        [b - a for a, b in gaps if b <= start][_NUM_SKIPPED:],
        [b - a for a, b in gaps if b > start and a < end],
        end - start,
    )
