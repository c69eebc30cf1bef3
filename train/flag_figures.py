"""How good flag scores are: precision and recall, areas under curves, calibration."""

import msgspec
import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from train.fit_heads import Array
from train.predicted import Flags, Predicted, Rows

NUM_BINS = 15
"""As in Guo et al. 2017."""


class Point(msgspec.Struct, frozen=True, array_like=True):
    """A point of a plot."""

    x: float
    y: float


class Bin(msgspec.Struct, frozen=True):
    """The `count` scores of one bin: their mean, and the share of them that is labelled 1."""

    confidence: float
    accuracy: float
    count: int


class Flag(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one flag, in [0, 1]; None where a figure is undefined.

    `precision` is None if nothing is raised; `recall`, the F1s and `auprc` (average precision) if
    the flag never occurs; `auroc` if it never or always does. `f1_ruled` counts what the world's
    rules hold back as not raised.
    """

    support: int
    num_raised: int
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    f1_ruled: float | None
    auroc: float | None
    auprc: float | None
    ece: float
    bins: list[Bin]


def flag_figures(predicted: Predicted) -> dict[str, Flag]:
    """The figures of each flag."""
    labels, raised, ruled = predicted.true_flag, predicted.raised, predicted.ruled
    return {
        name: _flag(
            labels[:, i],
            predicted.scores[:, i],
            raised[:, i],
            ruled[:, i],
            float(predicted.thresholds[i]),
        )
        for i, name in enumerate(predicted.flag_names)
    }


def _flag(labels: Flags, scores: Array, raised: Flags, ruled: Flags, threshold: float) -> Flag:
    support, num_raised = int(labels.sum()), int(raised.sum())
    hits = int((labels & raised).sum())
    bins = reliability(scores, labels)
    return Flag(
        support=support,
        num_raised=num_raised,
        threshold=threshold,
        precision=hits / num_raised if num_raised else None,
        recall=hits / support if support else None,
        f1=_f1(labels, raised),
        f1_ruled=_f1(labels, ruled),
        auroc=float(roc_auc_score(labels, scores)) if 0 < support < len(labels) else None,
        auprc=float(average_precision_score(labels, scores)) if support else None,
        ece=calibration_error(bins),
        bins=bins,
    )


def _f1(labels: Flags, raised: Flags) -> float | None:
    if not labels.any():
        return None
    return 2 * int((labels & raised).sum()) / int(labels.sum() + raised.sum())


def bin_numbers(scores: Array) -> Rows:
    """The bin of each score: NUM_BINS of equal width, closed above; 0 is in the first."""
    return np.clip(np.ceil(scores * NUM_BINS).astype(np.intp) - 1, 0, NUM_BINS - 1)


def reliability(scores: Array, labels: Flags) -> list[Bin]:
    """The bins that hold any of the scores [n], lowest first."""
    numbers = bin_numbers(scores)
    return [
        Bin(float(scores[inside].mean()), float(labels[inside].mean()), int(inside.sum()))
        for inside in (numbers == number for number in np.unique(numbers))
    ]


def calibration_error(bins: list[Bin]) -> float:
    """The expected calibration error, in [0, 1]: mean of |accuracy - confidence|, by count.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", equation 3, where the confidence of
    a yes-or-no score is the score itself and its accuracy how often the label is 1.
    """
    gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in bins)
    return gaps / sum(each.count for each in bins)


def precision_recall(labels: Flags, scores: Array) -> list[Point]:
    """Recall (x) and precision (y) wherever recall grows, lowest recall first; none without labels.

    The area under their steps is the average precision.
    """
    if not labels.any():
        return []
    precision, recall, _ = precision_recall_curve(labels, scores)
    grows = np.flatnonzero(np.diff(recall[::-1]) > 0) + 1
    return [
        Point(round(float(recall[::-1][i]), 4), round(float(precision[::-1][i]), 4)) for i in grows
    ]
