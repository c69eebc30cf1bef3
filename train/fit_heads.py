"""Fits linear heads on frozen state vectors: ridge for deltas, logistic regression for flags.

Everything is chosen by cross-validation over `split_group`s of the training split; the others are
looked at once, for the report.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from train.dataset import CLEAR, DatasetError, TurnLabel
from train.states import LabelledState, stack

Array = npt.NDArray[np.float64]

NUM_FOLDS = 5
RIDGE_ALPHAS = (3_000.0, 6_000.0, 12_000.0)
"""Weaker penalties follow the noise: at 2,000 another batch shape moved a delta by over 0.02."""
LOGISTIC_CS = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
THRESHOLD_BLUR = 0.3
"""In logits: about what another batch shape moves a flag by (tests/server/test_decisions_hold)."""
NEVER_SEEN = 0.5
_CLIP = 0.98
"""Delta targets are clipped here before atanh, which is infinite at 1."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Labels as matrices: `delta` [n, n_delta], `flag` [n, n_flags] of 0 and 1, groups [n]."""

    delta: Array
    flag: Array
    groups: npt.NDArray[np.str_]
    flag_names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LinearHeads:
    """`tanh((x-mean)/scale @ w_delta + b_delta)`, `sigmoid((… @ w_flag + b_flag) / temperature)`.

    Weights are [n_embd, n_outputs]; `thresholds` [n_flags] are on the sigmoid's output.
    """

    mean: Array
    scale: Array
    w_delta: Array
    b_delta: Array
    w_flag: Array
    b_flag: Array
    temperature: float
    thresholds: Array

    def predict(self, states: npt.ArrayLike) -> tuple[Array, Array]:
        """`(delta [n, n_delta], scores [n, n_flags])` for states [n, n_embd]."""
        x = (np.asarray(states, np.float64) - self.mean) / self.scale
        delta = np.tanh(x @ self.w_delta + self.b_delta)
        return delta, sigmoid((x @ self.w_flag + self.b_flag) / self.temperature)

    def with_deltas_of(self, other: "LinearHeads") -> "LinearHeads":
        """These heads with the deltas of `other`, in the normalisation of these."""
        stretch = self.scale / other.scale
        shift = (self.mean - other.mean) / other.scale
        return replace(
            self,
            w_delta=other.w_delta * stretch[:, np.newaxis],
            b_delta=other.b_delta + shift @ other.w_delta,
        )


def make_targets(
    states: Sequence[LabelledState], delta_names: Sequence[str], flag_names: Sequence[str]
) -> Targets:
    """The labels of `states`, columns in the order of the names."""
    return targets_of([state.label for state in states], delta_names, flag_names)


def targets_of(
    labels: Sequence[TurnLabel], delta_names: Sequence[str], flag_names: Sequence[str]
) -> Targets:
    """`labels` as matrices, columns in the order of the names."""
    return Targets(
        np.array([[label.delta[name] for name in delta_names] for label in labels]),
        np.array([[label.flag[name] for name in flag_names] for label in labels], np.float64),
        np.array([label.split_group for label in labels]),
        tuple(flag_names),
    )


def fit(states: Sequence[LabelledState], targets: Targets) -> tuple[LinearHeads, dict[str, object]]:
    """Heads fitted on `states`, and what was chosen on the way.

    Raises DatasetError where the labels are too few to choose anything by.
    """
    if (num_groups := len(set(targets.groups))) < NUM_FOLDS:
        raise DatasetError(
            f"{num_groups} split groups to fit on; cross-validation needs {NUM_FOLDS}"
        )
    scaler = StandardScaler().fit(stack(states).astype(np.float64))
    x = scaler.transform(stack(states).astype(np.float64))
    folds = list(GroupKFold(NUM_FOLDS).split(x, groups=targets.groups))
    _check_both_seen(targets, folds)
    goals = np.arctanh(np.clip(targets.delta, -_CLIP, _CLIP))
    alpha = max(RIDGE_ALPHAS, key=lambda a: _ridge_signs(x, goals, targets.delta, folds, a))
    ridge = Ridge(alpha=alpha).fit(x, goals)
    flags = [_fit_flag(x, column, folds) for column in targets.flag.T]
    out_of_fold = np.stack([flag.out_of_fold for flag in flags], axis=1)
    temperature = _fit_temperature(out_of_fold, targets.flag)
    scores = sigmoid(out_of_fold / temperature)
    thresholds = np.array(
        [best_threshold(y, s) for y, s in zip(targets.flag.T, scores.T, strict=True)]
    )
    heads = LinearHeads(
        mean=scaler.mean_,
        scale=scaler.scale_,
        w_delta=ridge.coef_.T,
        b_delta=ridge.intercept_,
        w_flag=np.stack([flag.model.coef_[0] for flag in flags], axis=1),
        b_flag=np.array([flag.model.intercept_[0] for flag in flags]),
        temperature=temperature,
        thresholds=thresholds,
    )
    chosen = {"ridge_alpha": alpha, "logistic_c": [flag.c for flag in flags]}
    return heads, chosen


def _check_both_seen(targets: Targets, folds: list[tuple[Array, Array]]) -> None:
    for name, column in zip(targets.flag_names, targets.flag.T, strict=True):
        if any(len(set(column[train])) < 2 for train, _ in folds):
            raise DatasetError(
                f"flag {name}: too few split groups where it is raised, or where it is not; "
                "label more of them"
            )


@dataclass(frozen=True, slots=True)
class _FlagFit:
    model: LogisticRegression
    c: float
    out_of_fold: Array


def _fit_flag(x: Array, y: Array, folds: list[tuple[Array, Array]]) -> _FlagFit:
    logits = {c: _out_of_fold_logits(x, y, folds, c) for c in LOGISTIC_CS}
    best = min(LOGISTIC_CS, key=lambda c: log_loss(y, sigmoid(logits[c]), labels=[0, 1]))
    return _FlagFit(_logistic(best).fit(x, y), best, logits[best])


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, solver="newton-cholesky", max_iter=200)


def _out_of_fold_logits(x: Array, y: Array, folds: list[tuple[Array, Array]], c: float) -> Array:
    logits = np.empty(len(y))
    for train, test in folds:
        logits[test] = _logistic(c).fit(x[train], y[train]).decision_function(x[test])
    return logits


def _ridge_signs(
    x: Array, goals: Array, delta: Array, folds: list[tuple[Array, Array]], alpha: float
) -> float:
    """Sign accuracy out of fold: the mean absolute error would rather have no opinion."""
    predicted = np.empty_like(delta)
    for train, test in folds:
        predicted[test] = Ridge(alpha=alpha).fit(x[train], goals[train]).predict(x[test])
    return sign_accuracy(predicted, delta, np.abs(delta) >= CLEAR) or 0.0


def sign_accuracy(delta: Array, labels: Array, counted: npt.NDArray[np.bool_]) -> float | None:
    """Share of `counted` deltas whose sign is that of the label; None if none is counted."""
    right = np.sign(delta) == np.sign(labels)
    return float(right[counted].mean()) if counted.any() else None


def sign_accuracies(delta: Array, labels: Array) -> dict[str, float | None]:
    """Shares of right signs of the labels that are CLEAR: of all, falling ones and rising ones."""
    return {
        "sign_accuracy": sign_accuracy(delta, labels, np.abs(labels) >= CLEAR),
        "sign_accuracy_falling": sign_accuracy(delta, labels, labels <= -CLEAR),
        "sign_accuracy_rising": sign_accuracy(delta, labels, labels >= CLEAR),
    }


def calibrated(heads: LinearHeads, states: npt.ArrayLike, flags: Array) -> LinearHeads:
    """`heads` with temperature and thresholds set on states [n, n_embd] held out from fitting."""
    plain = replace(heads, temperature=1.0)
    temperature = _fit_temperature(logit(plain.predict(states)[1]), flags)
    warm = replace(heads, temperature=temperature)
    _, scores = warm.predict(states)
    thresholds = [best_threshold(y, s) for y, s in zip(flags.T, scores.T, strict=True)]
    return replace(warm, thresholds=np.array(thresholds))


def _fit_temperature(logits: Array, flags: Array) -> float:
    """Guo et al. 2017, "On Calibration of Modern Neural Networks": one scale that minimises NLL."""

    def loss(log_t: float) -> float:
        scores = sigmoid(logits / np.exp(log_t))
        return float(
            np.mean([log_loss(y, s, labels=[0, 1]) for y, s in zip(flags.T, scores.T, strict=True)])
        )

    return float(np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded").x))


def best_threshold(labels: Array, scores: Array) -> float:
    """The score threshold with the highest F1 when logits are uncertain by THRESHOLD_BLUR.

    Each score counts as raised by a logistic of its distance to the threshold. The sharp optimum of
    few examples is an accident of one of them, and lies where the next kernel tips scores over.
    NEVER_SEEN for a flag that is never raised.
    """
    if not labels.any():
        return NEVER_SEEN
    logits = logit(scores)
    candidates = np.linspace(logits.min(), logits.max(), 201)
    raised = sigmoid((logits[:, np.newaxis] - candidates) / THRESHOLD_BLUR)
    f1 = 2 * (labels @ raised) / (labels.sum() + raised.sum(axis=0))
    return float(sigmoid(candidates[np.argmax(f1)]))


def logit(scores: Array) -> Array:
    """Log-odds of probabilities, those of the certain held within 1e-9."""
    certain = np.clip(scores, 1e-9, 1 - 1e-9)
    logits: Array = np.log(certain / (1 - certain))
    return logits


def sigmoid(x: Array) -> Array:
    """Probabilities of log-odds."""
    result: Array = 1 / (1 + np.exp(-x))
    return result
