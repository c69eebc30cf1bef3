"""How often someone may ask: token buckets, as many as are in use, bounded."""

import time
from collections import OrderedDict
from collections.abc import Callable

from server.errors import RateLimited

MAX_CALLERS = 10_000
"""Buckets that are kept; the fullest are those longest out of use, so they are forgotten first."""


class RateLimit:
    """At most `per_minute` turns a minute of each caller, as many of them at once as have saved up.

    Virtual scheduling, as in ITU-T I.371 (GCRA): a caller is one number, the time at which its
    bucket is full again.
    """

    def __init__(
        self, who: str, per_minute: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._who, self._clock = who, clock
        self._interval_s, self._per_minute = 60.0 / per_minute, per_minute
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def check(self, caller: str) -> None:
        """Raises what `take` would."""
        self._full_after(caller)

    def take(self, caller: str) -> None:
        """One turn of `caller`. Raises RateLimited, which tells when the next one may come."""
        self._full_at[caller] = self._full_after(caller)
        self._full_at.move_to_end(caller)
        if len(self._full_at) > MAX_CALLERS:
            self._full_at.popitem(last=False)

    def _full_after(self, caller: str) -> float:
        """When the bucket is full again after one more turn. Raises RateLimited."""
        now = self._clock()
        full_at = max(self._full_at.get(caller, now), now) + self._interval_s
        if (excess := full_at - now - 60.0) > 1e-6:
            what = f"this {self._who} has asked more than {self._per_minute} times a minute"
            raise RateLimited(f"{what}; ask again in {excess:.1f} s", excess)
        return full_at
