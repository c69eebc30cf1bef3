"""Which settings are better: pure policy over measured times, one setting after another.

Values of a setting take turns, so each pair of runs saw the same machine.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from bench.report import Ratio, ratio_of

GAIN = 1.03
"""Speeds that differ by less are the same: what one run differs from the next."""

Figure = Literal["turn", "replies", "first", "step"]


@dataclass(frozen=True, slots=True)
class Setup:
    """What may be tuned."""

    threads: int
    threads_batch: int
    step_tokens: int
    ubatch_tokens: int
    kv_type: Literal["f16", "q8_0", "f32"]


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting, the values to try, the figures that it changes, and whether it may be taken."""

    name: str
    values: Sequence[int | str]
    figures: Sequence[Figure]
    is_written: bool = True


Measure = Callable[[Setup, Sequence[Figure]], Mapping[Figure, float] | None]
"""Seconds of each figure; None where llama.cpp has no such context."""


@dataclass(slots=True)
class Runs:
    """A setup and the seconds of its runs so far; `is_possible` unless llama.cpp refuses it."""

    setup: Setup
    seconds: dict[Figure, list[float]] = field(default_factory=dict)
    is_possible: bool = True

    def add(self, found: Mapping[Figure, float] | None) -> None:
        """One run."""
        if found is None:
            self.is_possible = False
            return
        for figure, seconds in found.items():
            self.seconds.setdefault(figure, []).append(seconds)


@dataclass(slots=True)
class Trial:
    """The setup in force and others beside it."""

    present: Runs
    others: list[Runs]

    def ratios(self, other: Runs) -> dict[Figure, Ratio]:
        """How many times faster than the present one `other` is, over the runs that it had."""
        return {
            figure: ratio_of(self.present.seconds[figure][: len(runs)], runs)
            for figure, runs in other.seconds.items()
        }

    def is_better(self, other: Runs) -> bool:
        """Whether one figure surely gains, and none loses."""
        ratios = self.ratios(other).values()
        is_gain = any(ratio.low >= GAIN for ratio in ratios)
        return other.is_possible and is_gain and all(ratio.median > 1 / GAIN for ratio in ratios)

    def can_win(self, other: Runs, num_runs: int) -> bool:
        """Whether the runs still to come may make `other` better: most runs make the median."""
        if not other.is_possible:
            return False
        most = num_runs / 2
        gaining = losing = 0
        for figure, runs in other.seconds.items():
            pairs = zip(self.present.seconds[figure], runs, strict=False)
            ratios = [present / seconds for present, seconds in pairs]
            gaining += sum(ratio < GAIN for ratio in ratios) <= most
            losing += sum(ratio <= 1 / GAIN for ratio in ratios) > most
        return not other.seconds or (gaining > 0 and losing == 0)

    @property
    def best(self) -> Setup:
        """The better one that gains most over all figures; the present one if there is none."""
        better = [other for other in self.others if self.is_better(other)]
        if not better:
            return self.present.setup
        return max(better, key=self._gain).setup

    def _gain(self, other: Runs) -> float:
        return math.prod(ratio.median for ratio in self.ratios(other).values())


@dataclass(frozen=True, slots=True)
class Referee:
    """Lets setups take turns at `measure`; `on_run` is called after each round."""

    measure: Measure
    num_runs: int
    on_run: Callable[[], None]

    def try_knob(self, knob: Knob, present: Setup) -> Trial:
        """The values of a knob, beside the present one."""
        others = [
            _with(present, **{knob.name: value})
            for value in knob.values
            if value != getattr(present, knob.name)
        ]
        return self.compare(present, others, knob.figures)

    def compare(self, present: Setup, others: Sequence[Setup], figures: Sequence[Figure]) -> Trial:
        """`others` beside the present setup, each as long as it can still win.

        The present one is measured in any case.
        """
        trial = Trial(Runs(present), [Runs(setup) for setup in others])
        for at in range(self.num_runs):
            rivals = [other for other in trial.others if trial.can_win(other, self.num_runs)]
            if at and not rivals:
                break
            in_turn = [trial.present, *rivals]
            for runs in in_turn if at % 2 else reversed(in_turn):
                runs.add(self.measure(runs.setup, figures))
            self.on_run()
        return trial


def _with(setup: Setup, **changes: Any) -> Setup:
    return replace(setup, **changes)


def thread_values(num_cores: int) -> list[int]:
    """Numbers of threads worth a try: llama.cpp's threads wait for one another."""
    return sorted({max(1, num_cores // 4), max(1, num_cores // 2), num_cores - 1, num_cores} - {0})
