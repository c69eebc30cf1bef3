"""How good predictions are, beside a baseline that looks at nothing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import f1_score

from train.data_summary import find_pairs
from train.dataset import TurnLabel
from train.fit_heads import Array, sign_accuracies


@dataclass(frozen=True, slots=True)
class Scores:
    """Flags: F1 of each, and their mean (of those that occur). Deltas: mean error and right signs.

    The sign counts where the label is at least CLEAR either way, and apart where it falls and where
    it rises (most rise, so a guess that always rises is often right); None if no label is.
    """

    flag_macro_f1: float
    flag_f1: dict[str, float]
    delta_mae: float
    sign_accuracy: float | None
    sign_accuracy_falling: float | None
    sign_accuracy_rising: float | None

    def rounded(self) -> dict[str, object]:
        """As JSON, three decimals."""
        return {name: _rounded(value) for name, value in asdict(self).items()}


def _rounded(value: dict[str, float] | float | None) -> object:
    if isinstance(value, dict):
        return {name: round(part, 3) for name, part in value.items()}
    return None if value is None else round(value, 3)


def score(
    delta: Array,
    raised: npt.NDArray[np.bool_],
    true_delta: Array,
    true_flag: Array,
    flag_names: list[str],
) -> Scores:
    """Scores of predicted `delta` [n, n_delta] and `raised` [n, n_flags] against the labels."""
    f1 = {
        name: float(f1_score(true_flag[:, i], raised[:, i], zero_division=0))
        for i, name in enumerate(flag_names)
    }
    occurring = [f1[name] for i, name in enumerate(flag_names) if true_flag[:, i].any()]
    return Scores(
        flag_macro_f1=float(np.mean(occurring)) if occurring else 0.0,
        flag_f1=f1,
        delta_mae=float(np.abs(delta - true_delta).mean()),
        **sign_accuracies(delta, true_delta),
    )


def majority_baseline(
    fitted_delta: Array, fitted_flag: Array, true_delta: Array, true_flag: Array, names: list[str]
) -> Scores:
    """Scores of the training part's median delta and most frequent flag value."""
    delta = np.broadcast_to(np.median(fitted_delta, axis=0), true_delta.shape)
    raised = np.broadcast_to(fitted_flag.mean(axis=0) >= 0.5, true_flag.shape)
    return score(np.asarray(delta), np.asarray(raised), true_delta, true_flag, names)


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """Of a same-words-different-state pair: the row of its first turn, and whether it is right."""

    row: int
    is_right: bool


def pair_outcomes(
    turns: Sequence[TurnLabel], raised: npt.NDArray[np.bool_], flag_names: Sequence[str]
) -> list[PairOutcome]:
    """Whether both turns of each pair (find_pairs) are right in the flags by which they differ.

    `raised` is [n, n_flags], a row for each of `turns`. A pair that differs in none of `flag_names`
    is left out.
    """
    rows = {id(turn): row for row, turn in enumerate(turns)}
    columns = {name: column for column, name in enumerate(flag_names)}
    outcomes = []
    for pair in find_pairs(turns):
        judged = [
            raised[rows[id(turn)], columns[flag]] == turn.flag[flag]
            for turn in (pair.first, pair.second)
            for flag in pair.flags
            if flag in columns
        ]
        if judged:
            outcomes.append(PairOutcome(rows[id(pair.first)], all(judged)))
    return outcomes


def pairs_right(
    turns: Sequence[TurnLabel], raised: npt.NDArray[np.bool_], flag_names: Sequence[str]
) -> float | None:
    """Share of the pairs that are right (pair_outcomes), in [0, 1]; None if there is no pair."""
    outcomes = pair_outcomes(turns, raised, flag_names)
    return sum(each.is_right for each in outcomes) / len(outcomes) if outcomes else None
