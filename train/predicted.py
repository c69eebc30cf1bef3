"""What a predictor said of labelled turns, as matrices beside the labels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from rag.flags import flag_rule
from rag.world import World
from train.dataset import DatasetError, TurnLabel
from train.fit_heads import Array

Flags = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.intp]
T = TypeVar("T")


class Grouped(msgspec.Struct, Generic[T], frozen=True):
    """One measure over all turns, and over those of each NPC and of each language."""

    whole: T
    by_npc: dict[str, T]
    by_lang: dict[str, T]


def grouped(turns: Sequence[TurnLabel], measure: Callable[[Rows], T]) -> Grouped[T]:
    """`measure` of the row numbers of each group that has any turn; groups by name."""

    def by(names: Sequence[str]) -> dict[str, T]:
        return {name: measure(np.flatnonzero(np.array(names) == name)) for name in sorted({*names})}

    return Grouped(
        measure(np.arange(len(turns))),
        by([turn.npc_id for turn in turns]),
        by([turn.lang for turn in turns]),
    )


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions for `turns`, columns in the order of the names.

    `delta` [n, n_delta] in [-1, 1]; `scores` [n, n_flags] in [0, 1], raised from `thresholds`
    [n_flags] on; `held_back` [n, n_flags] (see the function): all False where no rule is to count.
    Raises DatasetError if there is no turn, no name, or a name that the turns do not label.
    """

    turns: Sequence[TurnLabel]
    delta_names: tuple[str, ...]
    flag_names: tuple[str, ...]
    delta: Array
    scores: Array
    thresholds: Array
    held_back: Flags

    def __post_init__(self) -> None:
        if not self.turns:
            raise DatasetError("no turn to evaluate; the split needs labelled turns")
        _check_labelled("delta", self.delta_names, self.turns[0].delta)
        _check_labelled("flag", self.flag_names, self.turns[0].flag)
        size = len(self.turns)
        assert self.delta.shape == (size, len(self.delta_names)), self.delta.shape
        assert self.scores.shape == (size, len(self.flag_names)), self.scores.shape
        assert self.held_back.shape == self.scores.shape, self.held_back.shape
        assert self.thresholds.shape == (len(self.flag_names),), self.thresholds.shape

    @property
    def true_delta(self) -> Array:
        """Labelled deltas [n, n_delta], in [-1, 1]."""
        return np.array([[turn.delta[name] for name in self.delta_names] for turn in self.turns])

    @property
    def true_flag(self) -> Flags:
        """Labelled flags [n, n_flags]."""
        return np.array([[turn.flag[n] for n in self.flag_names] for turn in self.turns], np.bool_)

    @property
    def raised(self) -> Flags:
        """Flags whose score reaches the threshold [n, n_flags]."""
        return self.scores >= self.thresholds

    @property
    def ruled(self) -> Flags:
        """Flags raised that the world's rules let through, as serving does [n, n_flags]."""
        return self.raised & ~self.held_back

    def select(self, rows: Rows) -> "Predicted":
        """The turns of `rows` alone."""
        return replace(
            self,
            turns=[self.turns[row] for row in rows],
            delta=self.delta[rows],
            scores=self.scores[rows],
            held_back=self.held_back[rows],
        )


def held_back(turns: Sequence[TurnLabel], flag_names: Sequence[str], world: World) -> Flags:
    """The flags that the world's policies and conditions would not let through [n, n_flags]."""
    rules = [[flag_rule(world, turn.facts, name) for name in flag_names] for turn in turns]
    return np.array([[rule.held_back is not None for rule in row] for row in rules])


def _check_labelled(key: str, names: Sequence[str], labels: Mapping[str, float]) -> None:
    if not names:
        raise DatasetError(f"the bundle decides no {key}; evaluate one whose heads do")
    if missing := [name for name in names if name not in labels]:
        raise DatasetError(
            f"the dataset labels no {key} {missing[0]!r}, which the bundle decides; "
            f"it labels {', '.join(labels)}"
        )
