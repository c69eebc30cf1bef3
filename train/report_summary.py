"""The first section of a report: each predictor in a column, beside the baselines."""

from collections.abc import Callable

from train.baselines import Baseline
from train.bootstrap import NUM_RESAMPLES
from train.dataset import CLEAR
from train.evaluation import Figures
from train.report_contents import Report
from train.report_grid import Grid, Section, number, with_interval

SUMMARY = "Summary"

_NOTE = (
    f"[95% bootstrap interval: {NUM_RESAMPLES:,} resamples of split groups; that of the ECE lies "
    "too high, for resampling adds noise]. Under the rules: what the world's rules hold back "
    "counts as not raised. Pairs right: of the pairs with the same words and another state, those "
    "with both turns right in the flags that differ. Right signs: where the label is at least "
    f"{CLEAR} either way."
)

_MEASURES: dict[str, tuple[Callable[[Figures], str], Callable[[Baseline], float | None] | None]] = {
    "turns": (lambda f: f"{f.num_turns:,}", None),
    "flag macro-F1": (
        lambda f: with_interval(f.headline.macro_f1),
        lambda b: b.scores.flag_macro_f1,
    ),
    "macro-F1 under the rules": (
        lambda f: with_interval(f.headline.macro_f1_ruled),
        lambda b: b.ruled.flag_macro_f1,
    ),
    "flag micro-F1": (lambda f: with_interval(f.headline.micro_f1), None),
    "micro-F1 under the rules": (lambda f: with_interval(f.headline.micro_f1_ruled), None),
    "ECE of the flags": (lambda f: with_interval(f.headline.ece), None),
    "pairs right": (lambda f: with_interval(f.headline.pairs_right), lambda b: b.pairs_right),
    "pairs right under the rules": (
        lambda f: with_interval(f.headline.pairs_right_ruled),
        lambda b: b.pairs_right_ruled,
    ),
    "delta MAE": (lambda f: with_interval(f.headline.delta_mae), lambda b: b.scores.delta_mae),
    "right signs": (
        lambda f: with_interval(f.headline.sign_accuracy),
        lambda b: b.scores.sign_accuracy,
    ),
    "... falling": (
        lambda f: number(f.deltas.pooled.sign_accuracy_falling),
        lambda b: b.scores.sign_accuracy_falling,
    ),
    "... rising": (
        lambda f: number(f.deltas.pooled.sign_accuracy_rising),
        lambda b: b.scores.sign_accuracy_rising,
    ),
}
"""Each measure of a predictor, and of a baseline where it has it."""


def summary_section(report: Report) -> Section:
    """Predictors, with intervals, and baselines side by side."""
    wholes = [evaluation.figures.whole for evaluation in report.predictors.values()]
    names = [*report.predictors, *(baseline.name for baseline in report.baselines)]
    rows = [
        (
            name,
            *map(of_figures, wholes),
            *(number(of_baseline and of_baseline(each)) for each in report.baselines),
        )
        for name, (of_figures, of_baseline) in _MEASURES.items()
    ]
    return Section(SUMMARY, _NOTE, [Grid("", ("", *names), rows)])
