"""How good predicted deltas are: errors, explained variance, signs."""

import msgspec
import numpy as np

from train.dataset import CLEAR
from train.fit_heads import Array, sign_accuracies
from train.predicted import Predicted, Rows

DIRECTIONS = ("falls", "flat", "rises")
"""At most -CLEAR, between, at least CLEAR."""


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one delta, or of several pooled. Errors are in units of the delta.

    `r2` is the coefficient of determination: 1 - squared error / squared distance of the labels to
    their mean; None if they are all alike. The sign counts where the label is at least CLEAR either
    way, and apart where it falls and where it rises; None if none does. `directions` counts by the
    label's direction, then the prediction's.
    """

    mae: float
    rmse: float
    r2: float | None
    sign_accuracy: float | None
    sign_accuracy_falling: float | None
    sign_accuracy_rising: float | None
    directions: dict[str, dict[str, int]]


class Deltas(msgspec.Struct, frozen=True):
    """Figures of each delta, and of the values of all of them together."""

    pooled: Delta
    by_name: dict[str, Delta]


def delta_figures(predicted: Predicted) -> Deltas:
    """The figures of each delta and of all."""
    delta, labels = predicted.delta, predicted.true_delta
    by_name = {
        name: _figures(delta[:, i], labels[:, i]) for i, name in enumerate(predicted.delta_names)
    }
    return Deltas(_figures(delta.ravel(), labels.ravel()), by_name)


def _figures(delta: Array, labels: Array) -> Delta:
    squared = float(((delta - labels) ** 2).sum())
    spread = float(((labels - labels.mean()) ** 2).sum())
    are_alike = bool((labels == labels[0]).all())
    return Delta(
        mae=float(np.abs(delta - labels).mean()),
        rmse=(squared / len(labels)) ** 0.5,
        r2=None if are_alike else 1 - squared / spread,
        **sign_accuracies(delta, labels),
        directions=_directions(delta, labels),
    )


def _directions(delta: Array, labels: Array) -> dict[str, dict[str, int]]:
    predicted, labelled = _direction(delta), _direction(labels)
    return {
        name: {
            other: int(((labelled == row) & (predicted == column)).sum())
            for column, other in enumerate(DIRECTIONS)
        }
        for row, name in enumerate(DIRECTIONS)
    }


def _direction(delta: Array) -> Rows:
    """The index in DIRECTIONS of each value."""
    return np.where(delta <= -CLEAR, 0, np.where(delta >= CLEAR, 2, 1))
