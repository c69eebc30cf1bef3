"""How long requests take, learnt from those that ended: whether one more can make its deadline.

One mean stands for requests of all lengths, so among long prompts a short one may be refused that
would have been in time.
"""

from runtime.errors import Overloaded
from runtime.running_mean import RunningMean
from runtime.sequence import EngineSequence

SHARE = 0.1
"""Weight of the newest request in the running means."""


class Pace:
    """Seconds from admission to the state and to the end; before any has ended nothing is foretold.

    Begins with what `like`, of an engine that this one stands in for, has learnt.
    """

    def __init__(self, like: "Pace | None" = None) -> None:
        self._to_state: RunningMean = RunningMean(SHARE, like._to_state.value if like else None)
        self._to_end: RunningMean = RunningMean(SHARE, like._to_end.value if like else None)

    def observe(self, sequence: EngineSequence, *, is_cut: bool = False) -> None:
        """A request ended; one that was cut tells only that it takes longer.

        Without a state the first token counts.
        """
        timings = sequence.watch.timings()
        if timings.queue is None or timings.total is None:
            return
        told = timings.first_token if timings.state is None else timings.state
        spent = (timings.total - timings.queue) / 1e3
        if told is not None:
            self._to_state.add((told - timings.queue) / 1e3)
        elif is_cut:
            self._to_state.add_at_least(spent)
        if is_cut:
            self._to_end.add_at_least(spent)
        else:
            self._to_end.add(spent)

    def is_hopeless(self, sequence: EngineSequence, now: float) -> bool:
        """Whether a request that nothing has been done for could not even tell its state in time.

        `now` is a time of `time.monotonic()`.
        """
        is_new = sequence.seq_id is None and not sequence.num_preempted
        return is_new and sequence.is_late(now + (self._to_state.value or 0.0))

    def check_deadline(
        self, sequence: EngineSequence, num_ahead: int, num_places: int, now: float
    ) -> None:
        """Raise Overloaded if a request could not be finished in time.

        `num_ahead` requests must end before it gets one of `num_places`.
        """
        deadline, to_end = sequence.request.deadline, self._to_end.value
        if num_ahead <= 0 or deadline is None or to_end is None:
            return
        needed, left = to_end * (1 + num_ahead / num_places), deadline - now
        if needed > left:
            raise Overloaded(
                f"{num_ahead} of those before it must end first, so it would take about "
                f"{needed:.1f} s, and its deadline is in {left:.1f} s; try again later"
            )
