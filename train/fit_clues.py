"""Fits the linear model on what was said (`heads/clues.py`), and lets it speak beside the states.

It is fitted on the labels of all training turns, without the language model; how much each of the
two counts is learned on the validation split, which neither has seen.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, diags, hstack, identity, vstack
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold

from heads.clues import ClueIndex, Clues, Remark, features_of
from heads.ngrams import Hashes
from train.dataset import DatasetError
from train.fit_heads import (
    NUM_FOLDS,
    Array,
    LinearHeads,
    Targets,
    best_threshold,
    logit,
    sigmoid,
)
from train.sparse_rows import known_keys, rarity, sparse_rows

Part: TypeAlias = Literal["delta", "flag"]
PARTS: tuple[Part, ...] = ("delta", "flag")
_LOGISTIC_C = 10.0
_RIDGE_ALPHA = 2.0
_BLEND_C = 10.0
_SHARE = 0.01
"""An n-gram in so many of the turns weighs 1, as names do, and rarer ones more, while the weights
are fitted."""
_MAX_STEP = 127
"""The table is int8."""


@dataclass(frozen=True, slots=True)
class ClueModel:
    """Rows of `table` times `scale`, summed as remarks weigh them, plus `bias`.

    Deltas as they are, flags as logits: `table` is int8 [n_keys, n_delta + n_flags], the others
    [n_delta + n_flags]. `keys` are the features' hashes, sorted.
    """

    keys: Hashes
    table: npt.NDArray[np.int8]
    scale: Array
    bias: Array
    num_delta: int

    def predict(self, remarks: Sequence[Remark]) -> Array:
        """[len(remarks), n_delta + n_flags]."""
        index = ClueIndex(self.keys)
        found = _matrix([index.find(remark) for remark in remarks], self.keys)
        evidence: Array = found @ (self.table * self.scale)
        return evidence + self.bias

    def only(self, parts: Collection[Part]) -> "ClueModel":
        """The model that has nothing to say of other parts."""
        num_flags = len(self.scale) - self.num_delta
        spoken = np.repeat([part in parts for part in PARTS], [self.num_delta, num_flags])
        return replace(self, scale=self.scale * spoken, bias=self.bias * spoken)


@dataclass(frozen=True, slots=True)
class BlendedHeads:
    """Heads on states and on what was said, together.

    Deltas: `delta_share * tanh(…) + clues`, held within [-1, 1]; flags: the sum of both logits.
    """

    states: LinearHeads
    clues: ClueModel
    delta_share: Array

    def predict(self, states: npt.ArrayLike, remarks: Sequence[Remark]) -> tuple[Array, Array]:
        """`(delta [n, n_delta], scores [n, n_flags])` for states [n, n_embd] and their remarks."""
        delta, scores = self.states.predict(states)
        evidence = self.clues.predict(remarks)
        num_delta = delta.shape[1]
        mixed = np.clip(delta * self.delta_share + evidence[:, :num_delta], -1, 1)
        return mixed, sigmoid(logit(scores) + evidence[:, num_delta:])


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Turns that neither heads nor clues have seen: `states` [n, n_embd], remarks and labels."""

    states: npt.NDArray[np.floating[Any]]
    remarks: Sequence[Remark]
    targets: Targets

    def rows(self, at: npt.NDArray[np.int64]) -> "HeldOut":
        """Some of them."""
        targets = self.targets
        return HeldOut(
            self.states[at],
            [self.remarks[row] for row in at],
            replace(
                targets,
                delta=targets.delta[at],
                flag=targets.flag[at],
                groups=targets.groups[at],
            ),
        )


def fit_clues(remarks: Sequence[Remark], targets: Targets) -> ClueModel:
    """The model of remarks and their labels. Raises DatasetError if they have nothing in common."""
    features = [features_of(remark) for remark in remarks]
    keys, counts = known_keys([np.concatenate([each.ngrams, each.names]) for each in features])
    if not len(keys):
        raise DatasetError(f"{len(remarks)} turns have nothing in common to learn from")
    is_name = np.isin(keys, np.concatenate([each.names for each in features]))
    weight = rarity(np.where(is_name, _SHARE, counts / len(remarks))) / rarity(_SHARE)
    index = ClueIndex(keys)
    x = (_matrix([index.known_of(each) for each in features], keys) @ diags(weight)).tocsr()
    ridge = Ridge(alpha=_RIDGE_ALPHA, solver="sparse_cg").fit(x, targets.delta)
    columns = [(ridge.coef_.T, ridge.intercept_), *(_fit_flag(x, y) for y in targets.flag.T)]
    weights = np.column_stack([weights for weights, _ in columns]) * weight[:, np.newaxis]
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-9) / _MAX_STEP
    bias = np.concatenate([np.atleast_1d(bias) for _, bias in columns])
    return ClueModel(
        keys, np.round(weights / scale).astype(np.int8), scale, bias, targets.delta.shape[1]
    )


def _fit_flag(x: csr_matrix, y: Array) -> tuple[Array, float]:
    if np.ptp(y) == 0:  # nothing to learn: always, or never
        return np.zeros(x.shape[1]), float(logit(np.clip(y[:1], 0.01, 0.99))[0])
    model = LogisticRegression(
        C=_LOGISTIC_C, class_weight="balanced", solver="liblinear", random_state=0
    ).fit(x, y)
    return model.coef_[0], float(model.intercept_[0])


def _matrix(found: Sequence[Clues], keys: Hashes) -> csr_matrix:
    return sparse_rows([(each.rows, each.weights) for each in found], len(keys))


def blend(heads: LinearHeads, clues: ClueModel, held_out: HeldOut) -> BlendedHeads:
    """Both, each weighted by what it adds on turns that neither has seen; thresholds set on them.

    For each flag a logistic regression on the two logits, for each delta shares that are not
    negative, with the least absolute errors. Deltas that the clues say nothing of stay as the
    states have them.
    """
    states, remarks, targets = held_out.states, held_out.remarks, held_out.targets
    delta, scores = replace(heads, temperature=1.0).predict(states)
    evidence = clues.predict(remarks)
    num_delta = clues.num_delta
    shares = np.array(
        [
            _shares(delta[:, at], evidence[:, at], targets.delta[:, at])
            if clues.scale[at]
            else (1.0, 0.0)
            for at in range(num_delta)
        ]
    )
    logits = logit(scores)
    pairs = [
        _weigh(logits[:, at], evidence[:, num_delta + at], y) for at, y in enumerate(targets.flag.T)
    ]
    gains, clue_gains, biases = (np.array(part) for part in zip(*pairs, strict=True))
    factors = np.concatenate([shares[:, 1], clue_gains])
    blended = BlendedHeads(
        replace(
            heads,
            w_flag=heads.w_flag * gains,
            b_flag=heads.b_flag * gains + biases,
            temperature=1.0,
        ),
        replace(clues, scale=clues.scale * factors, bias=clues.bias * factors),
        shares[:, 0],
    )
    scores = blended.predict(states, remarks)[1]
    thresholds = [best_threshold(y, s) for y, s in zip(targets.flag.T, scores.T, strict=True)]
    return replace(blended, states=replace(blended.states, thresholds=np.array(thresholds)))


def _shares(delta: Array, evidence: Array, labels: Array) -> tuple[float, float]:
    """What the states' delta and the clues' count for; the states alone, if none is best."""
    share, clue_share = least_absolute_errors(np.column_stack([delta, evidence]), labels)
    return (share, clue_share) if share + clue_share else (1.0, 0.0)


def least_absolute_errors(x: Array, y: Array) -> Array:
    """Weights [width] of the columns of `x` [n, width], none negative: the least mean |x @ w - y|.

    They fit the median, not the mean. As a linear programme: errors are bounded from both sides,
    and their sum is minimised.
    """
    n, width = x.shape
    errors = identity(n)
    found = linprog(
        np.concatenate([np.zeros(width), np.ones(n)]),
        A_ub=vstack([hstack([x, -errors]), hstack([-x, -errors])]),
        b_ub=np.concatenate([y, -y]),
        method="highs",
    )
    assert found.success, found.message
    weights: Array = found.x[:width]
    return weights


def _weigh(state: Array, evidence: Array, y: Array) -> tuple[float, float, float]:
    """What the state's logit and the clues' count for, and the bias.

    Neither counts against its own word: what would is left out, the worse of the two first. Of a
    flag that is always or never raised nothing is learnt.
    """
    if np.ptp(y) == 0:
        return 1.0, 0.0, 0.0
    x, used = np.column_stack([state, evidence]), np.ones(2)
    while True:
        model = LogisticRegression(C=_BLEND_C).fit(x * used, y)
        gains = model.coef_[0] * used
        if gains.min() >= 0:
            return float(gains[0]), float(gains[1]), float(model.intercept_[0])
        used[gains.argmin()] = 0


def blended_out_of_fold(
    heads: LinearHeads, clues: ClueModel, held_out: HeldOut
) -> tuple[Array, Array]:
    """What `blend` predicts for turns of split groups that it was not fitted on.

    Raises DatasetError where there are fewer groups than folds.
    """
    targets = held_out.targets
    if (num_groups := len(set(targets.groups))) < NUM_FOLDS:
        raise DatasetError(f"{num_groups} split groups to weigh clues on; it takes {NUM_FOLDS}")
    delta, scores = np.empty_like(targets.delta), np.empty_like(targets.flag)
    for fitted, judged in GroupKFold(NUM_FOLDS).split(held_out.states, groups=targets.groups):
        others = held_out.rows(judged)
        mixed = blend(heads, clues, held_out.rows(fitted))
        delta[judged], scores[judged] = mixed.predict(others.states, others.remarks)
    return delta, scores
