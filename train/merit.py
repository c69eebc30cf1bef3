"""Single figures by which models and heads are compared: 1 is perfect, more is better."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score

from train.bootstrap import Estimate, estimate, resamples
from train.dataset import CLEAR
from train.fit_heads import Array, sign_accuracy


def flag_merit(flags: Array, scores: Array) -> float:
    """Mean average precision of `scores` [n, n_flags], over the flags that occur at all."""
    raised = [i for i in range(flags.shape[1]) if flags[:, i].any()]
    found = [float(average_precision_score(flags[:, i], scores[:, i])) for i in raised]
    return float(np.mean(found)) if found else 0.0


def delta_merit(labels: Array, delta: Array) -> float:
    """1 - mean absolute error / that of the labels' median, at least -1; below 0 is worse than it.

    Labels that are all alike leave nothing to know: 0.
    """
    error = np.abs(delta - labels).mean()
    of_median = np.abs(np.median(labels, axis=0) - labels).mean()
    return max(-1.0, float(1 - error / of_median)) if of_median else 0.0


def sign_merit(labels: Array, delta: Array) -> float:
    """Share of right signs among the labels of at least CLEAR; 1 if there are none."""
    share = sign_accuracy(delta, labels, np.abs(labels) >= CLEAR)
    return 1.0 if share is None else share


def gain(
    merit: Callable[[Array, Array], float],
    labels: Array,
    found: Array,
    before: Array,
    groups: npt.NDArray[Any],
) -> Estimate:
    """How much more merit `found` has than `before`; all are [n, width].

    The interval draws whole split `groups` [n] anew, for both alike (paired bootstrap).
    """
    differences = [
        merit(labels[rows], found[rows]) - merit(labels[rows], before[rows])
        for rows in drawn_rows(groups)
    ]
    return estimate(merit(labels, found) - merit(labels, before), np.array(differences))


def drawn_rows(groups: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.int64]]:
    """Rows of each resample: those of whole split `groups` [n], drawn with replacement."""
    names, at = np.unique(groups, return_inverse=True)
    for counts in resamples(len(names)).astype(int):
        yield np.repeat(np.arange(len(groups)), counts[at])
