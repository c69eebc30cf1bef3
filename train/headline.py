"""The figures that are quoted, each with a bootstrap interval.

Each is a ratio of sums over turns, so a resample is a weighting of turns, and all resamples are one
matrix product.
"""

from dataclasses import dataclass, fields

import msgspec
import numpy as np

from train.bootstrap import Estimate, estimate, resamples
from train.dataset import CLEAR
from train.fit_heads import Array
from train.flag_figures import NUM_BINS, bin_numbers
from train.metrics import pair_outcomes
from train.predicted import Flags, Predicted


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """The quoted figures, in [0, 1] (`delta_mae` in [0, 2]).

    Macro-F1 is the mean over the flags that occur: within an NPC or a language a flag that never
    occurs has no F1, and is left to the micro-F1 (of all decisions together) and to precision.
    `_ruled`: what the world's rules hold back counts as not raised. `ece` is of all flag scores
    together, `delta_mae` and `sign_accuracy` of all deltas. `pairs_right`: of the pairs with the
    same words and another state, those with both turns right (metrics.pair_outcomes).
    """

    macro_f1: Estimate
    macro_f1_ruled: Estimate
    micro_f1: Estimate
    micro_f1_ruled: Estimate
    ece: Estimate
    pairs_right: Estimate
    pairs_right_ruled: Estimate
    delta_mae: Estimate
    sign_accuracy: Estimate


@dataclass(frozen=True, slots=True)
class _Sums:
    """What the figures are ratios of: arrays [n, columns], a row for a turn, group or resample."""

    labelled: Array
    raised: Array
    hits: Array
    ruled: Array
    ruled_hits: Array
    num_scores: Array
    gaps: Array
    """Labels less scores, by reliability bin [n, NUM_BINS]."""
    num_pairs: Array
    pairs_right: Array
    pairs_right_ruled: Array
    num_deltas: Array
    error: Array
    clear: Array
    clear_right: Array

    def weighted(self, weights: Array) -> "_Sums":
        """Sums over the rows: weights [m, n] give m rows."""
        return _Sums(*(weights @ getattr(self, field.name) for field in fields(self)))


def headline(predicted: Predicted) -> Headline:
    """The figures, with bootstrap intervals over resampled `split_group`s.

    The turns of a group are not independent, so they are drawn together; a pair goes with its first
    turn. Noise can only add to a calibration error, and a resample is noisier than the sample: the
    interval of `ece` lies too high.
    """
    names = np.array([turn.split_group for turn in predicted.turns])
    groups, of_turn = np.unique(names, return_inverse=True)
    by_group = _sums(predicted).weighted(np.eye(len(groups))[:, of_turn])
    points = _figures(by_group.weighted(np.ones((1, len(groups)))))
    samples = _figures(by_group.weighted(resamples(len(groups))))
    return Headline(**{name: estimate(point[0], samples[name]) for name, point in points.items()})


def _sums(predicted: Predicted) -> _Sums:
    labels, raised, ruled = predicted.true_flag, predicted.raised, predicted.ruled
    delta, true_delta = predicted.delta, predicted.true_delta
    clear = np.abs(true_delta) >= CLEAR
    num_pairs, right = _pairs(predicted, raised)
    _, right_ruled = _pairs(predicted, ruled)
    size = len(predicted.turns)
    return _Sums(
        labelled=labels.astype(float),
        raised=raised.astype(float),
        hits=(raised & labels).astype(float),
        ruled=ruled.astype(float),
        ruled_hits=(ruled & labels).astype(float),
        num_scores=np.full((size, 1), labels.shape[1], float),
        gaps=_gaps(predicted.scores, labels),
        num_pairs=num_pairs,
        pairs_right=right,
        pairs_right_ruled=right_ruled,
        num_deltas=np.full((size, 1), delta.shape[1], float),
        error=_total(np.abs(delta - true_delta)),
        clear=_total(clear),
        clear_right=_total(clear & (np.sign(delta) == np.sign(true_delta))),
    )


def _total(columns: Array | Flags) -> Array:
    total: Array = columns.sum(axis=1, keepdims=True, dtype=float)
    return total


def _gaps(scores: Array, labels: Flags) -> Array:
    gaps = np.zeros((len(scores), NUM_BINS))
    np.add.at(gaps, (np.arange(len(scores))[:, np.newaxis], bin_numbers(scores)), labels - scores)
    return gaps


def _pairs(predicted: Predicted, raised: Flags) -> tuple[Array, Array]:
    """How many pairs begin with each turn, and how many of them are right: [n, 1] both."""
    found, right = np.zeros((2, len(predicted.turns), 1))
    for outcome in pair_outcomes(predicted.turns, raised, predicted.flag_names):
        found[outcome.row] += 1
        right[outcome.row] += outcome.is_right
    return found, right


def _figures(sums: _Sums) -> dict[str, Array]:
    """Each figure of Headline for each row of `sums` [m]; NaN where it is undefined."""
    return {
        "macro_f1": _macro_f1(sums.hits, sums.labelled, sums.raised),
        "macro_f1_ruled": _macro_f1(sums.ruled_hits, sums.labelled, sums.ruled),
        "micro_f1": _micro_f1(sums.hits, sums.labelled, sums.raised),
        "micro_f1_ruled": _micro_f1(sums.ruled_hits, sums.labelled, sums.ruled),
        "ece": _ratio(np.abs(sums.gaps).sum(axis=1), sums.num_scores[:, 0]),
        "pairs_right": _ratio(sums.pairs_right, sums.num_pairs)[:, 0],
        "pairs_right_ruled": _ratio(sums.pairs_right_ruled, sums.num_pairs)[:, 0],
        "delta_mae": _ratio(sums.error, sums.num_deltas)[:, 0],
        "sign_accuracy": _ratio(sums.clear_right, sums.clear)[:, 0],
    }


def _macro_f1(hits: Array, labelled: Array, raised: Array) -> Array:
    f1 = 2 * hits / np.maximum(labelled + raised, 1)
    return _ratio(f1.sum(axis=1), (labelled > 0).sum(axis=1).astype(float))


def _micro_f1(hits: Array, labelled: Array, raised: Array) -> Array:
    return _ratio(2 * hits.sum(axis=1), (labelled + raised).sum(axis=1))


def _ratio(top: Array, bottom: Array) -> Array:
    ratio: Array = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio
