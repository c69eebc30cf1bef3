"""What `persona evaluate` says of predicted flags and deltas: figures, in all and by group."""

import msgspec

from train.delta_figures import Deltas, delta_figures
from train.flag_figures import (
    Bin,
    Flag,
    Point,
    flag_figures,
    precision_recall,
    reliability,
)
from train.headline import Headline, headline
from train.predicted import Grouped, Predicted, Rows, grouped


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one set of turns; `bins` are of all flag scores together."""

    num_turns: int
    num_split_groups: int
    headline: Headline
    flags: dict[str, Flag]
    bins: list[Bin]
    deltas: Deltas


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of one predictor, in all and by group, and the points of its plots.

    `curves`: recall (x) and precision (y) of each flag that occurs. `scatter`: label (x) and
    prediction (y) of each delta and turn.
    """

    figures: Grouped[Figures]
    curves: dict[str, list[Point]]
    scatter: dict[str, list[Point]]


def evaluate(predicted: Predicted) -> Evaluation:
    """The figures of one predictor."""
    return Evaluation(
        figures=grouped(predicted.turns, lambda rows: _figures(predicted, rows)),
        curves=_curves(predicted),
        scatter=_scatter(predicted),
    )


def _figures(predicted: Predicted, rows: Rows) -> Figures:
    part = predicted.select(rows)
    return Figures(
        num_turns=len(part.turns),
        num_split_groups=len({turn.split_group for turn in part.turns}),
        headline=headline(part),
        flags=flag_figures(part),
        bins=reliability(part.scores.ravel(), part.true_flag.ravel()),
        deltas=delta_figures(part),
    )


def _curves(predicted: Predicted) -> dict[str, list[Point]]:
    labels = predicted.true_flag
    return {
        name: precision_recall(labels[:, i], predicted.scores[:, i])
        for i, name in enumerate(predicted.flag_names)
        if labels[:, i].any()
    }


def _scatter(predicted: Predicted) -> dict[str, list[Point]]:
    labels = predicted.true_delta
    return {
        name: [
            Point(float(x), round(float(y), 4))
            for x, y in zip(labels[:, i], predicted.delta[:, i], strict=True)
        ]
        for i, name in enumerate(predicted.delta_names)
    }
