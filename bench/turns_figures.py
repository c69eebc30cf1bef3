"""What `persona bench turns` makes of its runs: medians, ratios, bounds, table, plot."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Protocol

from bench.report import Ratio, ratio_of

MAX_EXTRA = 4
"""Upper bound of a continued turn's evaluated tokens over its own."""
MAX_SHARE = 3
"""Upper bound of all turns' evaluated tokens over their own, cuts included."""

_WHAT = ("state_ms", "first_token_ms", "total_ms", "num_evaluated", "num_reply")


class Timed(Protocol):
    """A turn of anybody's."""

    @property
    def state_ms(self) -> float:
        """Until the state."""

    @property
    def first_token_ms(self) -> float:
        """Until the first token."""

    @property
    def total_ms(self) -> float:
        """Until the end."""

    @property
    def num_evaluated(self) -> int:
        """Tokens of prompt and decision that were evaluated."""

    @property
    def num_reply(self) -> int:
        """Tokens of the reply."""


@dataclass(frozen=True, slots=True)
class OurTurn:
    """One turn: its tokens and its times, in milliseconds since the request was there.

    `num_own` counts the turn's blocks, from what the transcript grows by before the utterance up to
    `<NPC>`; `num_evaluated` those tokens of prompt and decision that the KV cache had not.
    """

    num_own: int
    num_evaluated: int
    num_prompt: int
    num_reply: int
    state_ms: float
    first_token_ms: float
    """Since the request reached the engine: the pipeline tells of whole sentences only."""
    total_ms: float
    history: str
    """`continued`, or `rebuilt` where the transcript had to be cut."""


@dataclass(slots=True)
class Measured:
    """One way to answer, and the turns of each run that count."""

    name: str
    bound: float | None = None
    """Upper bound of our time to state over its."""
    ours: "Measured | None" = None
    """Those of ours that it is held against, if not those given."""
    runs: list[Sequence[Timed]] = field(default_factory=list)

    def medians(self, what: str) -> list[float]:
        """The median turn of each run."""
        return [median(getattr(turn, what) for turn in run) for run in self.runs]

    def by_turn(self, what: str) -> list[float]:
        """The median run of each turn."""
        turns = zip(*self.runs, strict=False)
        return [median(getattr(turn, what) for turn in runs) for runs in turns]

    def ratio(self, ours: "Measured") -> Ratio:
        """Our time to state over its, run by run."""
        return ratio_of((self.ours or ours).medians("state_ms"), self.medians("state_ms"))

    def is_good(self, ours: "Measured") -> bool:
        """Whether the bound is kept, if there is one."""
        return self.bound is None or self.ratio(ours).high <= self.bound


@dataclass(slots=True)
class OurTokens:
    """The tokens of our turns, from the second on, and what the KV cache holds at the end."""

    name: str
    runs: list[Sequence[OurTurn]] = field(default_factory=list)
    num_left_out: int = 0
    """Turns whose line was not the model's first, and those right after them."""
    num_residents: int = 0
    """Finished turns' sequences in the KV cache after the last run, our own among them."""
    num_resident_cells: int = 0

    @property
    def turns(self) -> list[OurTurn]:
        """Those of all runs."""
        return [turn for run in self.runs for turn in run]

    @property
    def num_cuts(self) -> int:
        """Turns with which a transcript was written anew, all runs together."""
        return sum(turn.history == "rebuilt" for turn in self.turns)

    @property
    def worst_extra(self) -> int | None:
        """The most evaluated over a continued turn's own; None if all were cut."""
        continued = [turn for turn in self.turns if turn.history != "rebuilt"]
        return max((turn.num_evaluated - turn.num_own for turn in continued), default=None)

    @property
    def worst_turn(self) -> int:
        """The most that any turn evaluated."""
        return max(turn.num_evaluated for turn in self.turns)

    @property
    def share(self) -> float:
        """What all turns evaluated over what they brought, the worst run's."""
        return max(
            sum(turn.num_evaluated for turn in run) / sum(turn.num_own for turn in run)
            for run in self.runs
        )

    @property
    def is_good(self) -> bool:
        """Whether the bounds are kept."""
        extra = self.worst_extra
        return (extra is None or extra <= MAX_EXTRA) and self.share <= MAX_SHARE


def counted(turns: Sequence[OurTurn | None]) -> list[OurTurn]:
    """From the second on, those after which the model's first line stands, as before them.

    Another line is in the transcript without ever having been generated there.
    """
    return [turn for before, turn in pairwise(turns) if before is not None and turn is not None]


def time_row(one: Measured, ours: Measured) -> dict[str, object]:
    """A row of the table of times."""
    bound = "-"
    if one.bound is not None:
        bound = f"<= {one.bound}: {'kept' if one.is_good(ours) else 'MISSED'}"
    return {
        "who": one.name,
        "state ms": median(one.medians("state_ms")),
        "first token ms": median(one.medians("first_token_ms")),
        "all ms": median(one.medians("total_ms")),
        "reply": median(one.medians("num_reply")),
        "evaluated": median(one.medians("num_evaluated")),
        "ours/it, state [95%]": "-" if one is ours else one.ratio(ours),
        "bound (high end)": bound,
    }


def token_row(one: OurTokens) -> dict[str, object]:
    """A row of the table of tokens."""
    extra = "-" if one.worst_extra is None else one.worst_extra
    return {
        "who": one.name,
        "own": median(turn.num_own for turn in one.turns),
        "evaluated": median(turn.num_evaluated for turn in one.turns),
        "worst turn": one.worst_turn,
        f"over its own (<= {MAX_EXTRA})": extra,
        "cuts": one.num_cuts,
        f"evaluated/own (<= {MAX_SHARE})": one.share,
        "bounds": "kept" if one.is_good else "MISSED",
        "left out": one.num_left_out,
        "resident": one.num_residents,
        "cells": one.num_resident_cells,
    }


def time_figures(one: Measured, ours: Measured) -> dict[str, object]:
    """All of it, for JSON."""
    return {
        "name": one.name,
        "medians": {what: one.medians(what) for what in _WHAT},
        "ours_over_it": None if one is ours else one.ratio(ours),
        "most": one.bound,
        "is_good": one.is_good(ours),
        "runs": [
            [{what: getattr(turn, what) for what in _WHAT} for turn in run] for run in one.runs
        ],
    }


def token_figures(one: OurTokens) -> dict[str, object]:
    """All of it, for JSON."""
    return {
        "name": one.name,
        "worst_extra": one.worst_extra,
        "most_extra": MAX_EXTRA,
        "worst_turn": one.worst_turn,
        "num_cuts": one.num_cuts,
        "evaluated_over_own": one.share,
        "most_evaluated_over_own": MAX_SHARE,
        "is_good": one.is_good,
        "num_left_out": one.num_left_out,
        "num_residents": one.num_residents,
        "num_resident_cells": one.num_resident_cells,
        "runs": one.runs,
    }


def draw(path: Path, times: Sequence[Measured]) -> None:
    """Time to state and tokens evaluated, turn by turn."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    labels = {"state_ms": "ms to state", "num_evaluated": "tokens evaluated"}
    for axes, (what, label) in zip(panels, labels.items(), strict=True):
        for one in times:
            values = one.by_turn(what)
            axes.plot(range(2, len(values) + 2), values, marker=".", label=one.name)
        axes.set_yscale("log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("turn")
        axes.set_ylabel(label)
    panels[0].legend(fontsize="small")
    figure.savefig(path)
