"""Tables of text: printed by the console and shown by the page alike."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from train.bootstrap import Estimate
from train.predicted import Grouped

T = TypeVar("T")
Row = Sequence[str]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table: each of `rows` has a cell for each column of `header`."""

    title: str
    header: Row
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Section:
    """Tables of one topic, a note that says how to read them; `details` are for the page only."""

    title: str
    note: str
    grids: Sequence[Grid]
    details: Sequence[Grid] = ()


def number(value: float | None) -> str:
    """Three decimals; a dash where there is no value."""
    return "-" if value is None else f"{value:.3f}"


def with_interval(estimate: Estimate) -> str:
    """The value and, if there is one, its interval."""
    if estimate.low is None:
        return number(estimate.value)
    return f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"


def by_group(figures: Grouped[T], cells: Callable[[T], Row]) -> list[Row]:
    """A row for all, then one for each NPC and language."""
    groups = [("all", figures.whole), *figures.by_npc.items(), *figures.by_lang.items()]
    return [(name, *cells(group)) for name, group in groups]
