"""What a predictor said of labelled turns, as matrices beside the labels."""

import math
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
    [n_flags] on, under the world's rules from `needed` [n, n_flags] on (see `needed_scores`).
    Raises DatasetError if there is no turn, no name, or a name that the turns do not label.
    """

    turns: Sequence[TurnLabel]
    delta_names: tuple[str, ...]
    flag_names: tuple[str, ...]
    delta: Array
    scores: Array
    thresholds: Array
    needed: Array

    def __post_init__(self) -> None:
        if not self.turns:
            raise DatasetError("no turn to evaluate; the split needs labelled turns")
        _check_labelled("delta", self.delta_names, self.turns[0].delta)
        _check_labelled("flag", self.flag_names, self.turns[0].flag)
        size = len(self.turns)
        assert self.delta.shape == (size, len(self.delta_names)), self.delta.shape
        assert self.scores.shape == (size, len(self.flag_names)), self.scores.shape
        assert self.needed.shape == self.scores.shape, self.needed.shape
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
        """Flags that serving raises, under the world's rules [n, n_flags]."""
        return self.scores >= self.needed

    def select(self, rows: Rows) -> "Predicted":
        """The turns of `rows` alone."""
        return replace(
            self,
            turns=[self.turns[row] for row in rows],
            delta=self.delta[rows],
            scores=self.scores[rows],
            needed=self.needed[rows],
        )


def needed_scores(
    turns: Sequence[TurnLabel], flag_names: Sequence[str], thresholds: Array, world: World
) -> Array:
    """From which score on serving raises each flag [n, n_flags].

    That is the threshold of the flag's document in the world, or else its own of `thresholds`
    [n_flags]; infinite where policies and conditions hold it back.
    """

    def needed(turn: TurnLabel, name: str, threshold: float) -> float:
        rule = flag_rule(world, turn.facts, name)
        return rule.threshold(threshold) if rule.held_back is None else math.inf

    columns = [*zip(flag_names, thresholds.tolist(), strict=True)]
    return np.array([[needed(turn, *column) for column in columns] for turn in turns])


def _check_labelled(key: str, names: Sequence[str], labels: Mapping[str, float]) -> None:
    if not names:
        raise DatasetError(f"the bundle decides no {key}; evaluate one whose heads do")
    if missing := [name for name in names if name not in labels]:
        raise DatasetError(
            f"the dataset labels no {key} {missing[0]!r}, which the bundle decides; "
            f"it labels {', '.join(labels)}"
        )
