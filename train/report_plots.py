"""The plots of a report: SVG that stands in the page, in the colour of its text.

Only names of flags and deltas are written in them, which are ASCII (heads/spec.py).
"""

import re
from collections.abc import Callable
from io import StringIO
from math import ceil
from typing import TYPE_CHECKING

from train.delta_figures import DIRECTIONS
from train.evaluation import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

Draw = Callable[["Figure", Evaluation], None]

_INK = "#010203"
"""Stands for the page's text colour, which differs by day and by night."""
_DATA, _MARK = "#3b82c4", "#d9822b"
_ACROSS = 2
_SETTINGS: "dict[RcKeyType, str]" = {
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "none",
}


def draw_svg(draw: Draw, evaluation: Evaluation, name: str) -> str:
    """The plot as an `<svg>` element whose ids begin with `name`, so that several share a page."""
    from matplotlib import rc_context  # noqa: PLC0415 (slow to import)
    from matplotlib.figure import Figure  # noqa: PLC0415

    with rc_context({**_SETTINGS, "svg.hashsalt": name}):
        # not pyplot's: a figure that nothing else holds needs no closing
        figure = Figure(figsize=(6, 4), layout="constrained", dpi=150)
        draw(figure, evaluation)
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg[svg.index("<svg") :])
    return svg.replace(_INK, "currentColor")


def draw_reliability(figure: "Figure", evaluation: Evaluation) -> None:
    """How often the label is 1 over the mean score of each bin, and how many scores it holds."""
    bins = evaluation.figures.whole.bins
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    confidences = [each.confidence for each in bins]
    above.plot((0, 1), (0, 1), color=_INK, linewidth=0.8, linestyle="--")
    above.plot(confidences, [each.accuracy for each in bins], color=_DATA, marker="o")
    above.set(ylabel="label is 1", xlim=(0, 1), ylim=(0, 1))
    below.bar(confidences, [each.count for each in bins], width=0.03, color=_DATA)
    below.set(xlabel="score", ylabel="scores", yscale="log")


def draw_precision_recall(figure: "Figure", evaluation: Evaluation) -> None:
    """Each flag's precision over its recall; a dot where its threshold puts it."""
    flags, curves = evaluation.figures.whole.flags, evaluation.curves
    num_rows = max(1, ceil(len(curves) / _ACROSS))
    figure.set_size_inches(6, 2 * num_rows + 0.5)
    panels = [*figure.subplots(num_rows, _ACROSS, sharex=True, sharey=True, squeeze=False).flat]
    for unused in panels[len(curves) :]:
        unused.set_axis_off()
    for (name, points), axes in zip(curves.items(), panels, strict=False):
        flag = flags[name]
        axes.step([p.x for p in points], [p.y for p in points], where="pre", color=_DATA)
        if flag.precision is not None:
            axes.plot(flag.recall, flag.precision, "o", color=_MARK)
        axes.set_title(f"{name} ({flag.auprc:.2f})", fontsize="medium")
        axes.set(xlim=(0, 1.03), ylim=(0, 1.03))
    figure.supxlabel("recall")
    figure.supylabel("precision")


def draw_scatter(figure: "Figure", evaluation: Evaluation) -> None:
    """Each delta's prediction over its label."""
    panels = figure.subplots(1, len(evaluation.scatter), sharey=True, squeeze=False).flat
    for (name, points), axes in zip(evaluation.scatter.items(), panels, strict=True):
        axes.plot((-1, 1), (-1, 1), color=_INK, linewidth=0.8, linestyle="--")
        xs, ys = [p.x for p in points], [p.y for p in points]
        # thousands of vector dots make a slow page
        axes.scatter(xs, ys, s=6, alpha=0.4, color=_DATA, rasterized=True)
        axes.set_title(name, fontsize="medium")
        axes.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal")
    figure.supxlabel("label")
    figure.supylabel("prediction")


def draw_directions(figure: "Figure", evaluation: Evaluation) -> None:
    """Counts of deltas by direction, labelled and predicted; shades are shares of a row."""
    deltas = evaluation.figures.whole.deltas.by_name
    panels = figure.subplots(1, len(deltas), sharey=True, squeeze=False).flat
    figure.set_size_inches(6, 3)
    for (name, delta), axes in zip(deltas.items(), panels, strict=True):
        _draw_counts(axes, [[*row.values()] for row in delta.directions.values()])
        axes.set_title(name, fontsize="medium")
    figure.supxlabel("prediction")
    figure.supylabel("label")


def _draw_counts(axes: "Axes", counts: list[list[int]]) -> None:
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            shade = 0.85 * count / max(1, sum(row))
            axes.fill_between((x - 0.5, x + 0.5), y - 0.5, y + 0.5, color=_DATA, alpha=shade, lw=0)
            axes.text(x, y, str(count), ha="center", va="center")
    axes.set(xlim=(-0.5, 2.5), ylim=(2.5, -0.5), aspect="equal")
    axes.set_xticks(range(3), DIRECTIONS)
    axes.set_yticks(range(3), DIRECTIONS)
