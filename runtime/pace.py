"""How long requests take, learnt from those that ended: whether one more can make its deadline."""

from runtime.errors import Overloaded
from runtime.sequence import EngineSequence

SHARE = 0.1
"""Weight of the newest request in the running means."""


class Pace:
    """Running means over requests; before any has ended nothing is foretold.

    Begins with what `like`, of an engine that this one stands in for, has learnt.
    """

    _to_state: float | None
    _to_end: float | None

    def __init__(self, like: "Pace | None" = None) -> None:
        self._to_state = like._to_state if like else None
        self._to_end = like._to_end if like else None

    def observe(self, sequence: EngineSequence) -> None:
        """A request ended. Without a state the first token counts; cut before, it tells nothing."""
        timings = sequence.watch.timings()
        told = timings.first_token if timings.state is None else timings.state
        if timings.queue is None or timings.total is None or told is None:
            return
        self._to_state = _mean(self._to_state, (told - timings.queue) / 1e3)
        self._to_end = _mean(self._to_end, (timings.total - timings.queue) / 1e3)

    def is_hopeless(self, sequence: EngineSequence, now: float) -> bool:
        """Whether a request that nothing has been done for could not even tell its state in time.

        `now` is a time of `time.monotonic()`.
        """
        is_new = sequence.seq_id is None and not sequence.num_preempted
        return is_new and sequence.is_late(now + (self._to_state or 0.0))

    def check_deadline(
        self, sequence: EngineSequence, num_ahead: int, num_sequences: int, now: float
    ) -> None:
        """Raise Overloaded if a request could not be finished in time.

        `num_ahead` requests must end before it gets one of `num_sequences`.
        """
        deadline = sequence.request.deadline
        if num_ahead <= 0 or deadline is None or self._to_end is None:
            return
        needed, left = self._to_end * (1 + num_ahead / num_sequences), deadline - now
        if needed > left:
            raise Overloaded(
                f"{num_ahead} of those before it must end first, so it would take about "
                f"{needed:.1f} s, and its deadline is in {left:.1f} s; try again later"
            )


def _mean(mean: float | None, value: float) -> float:
    return value if mean is None else (1 - SHARE) * mean + SHARE * value
