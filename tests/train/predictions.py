"""Predictions and labels for tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.train.turns import label
from train.dataset import TurnLabel
from train.predicted import Predicted


def turns(
    flags: npt.ArrayLike, deltas: npt.ArrayLike | None = None, **changes: Sequence[Any]
) -> list[TurnLabel]:
    """A turn for each row of `flags` [n, n_flags] (a, b, …) and `deltas` [n, n_delta] (x, y, …).

    `changes` give other keys, a value for each turn; each is a split group of its own otherwise.
    """
    flag_rows = np.asarray(flags)
    delta_rows = np.zeros((len(flag_rows), 1)) if deltas is None else np.asarray(deltas)
    return [
        label(
            n,
            flag=dict(zip("abcdefgh", map(int, flag_rows[n]), strict=False)),
            delta=dict(zip("xyz", map(float, delta_rows[n]), strict=False)),
            **{"split_group": f"g{n}", **{key: values[n] for key, values in changes.items()}},
        )
        for n in range(len(flag_rows))
    ]


def predict(
    labelled: Sequence[TurnLabel],
    scores: npt.ArrayLike | None = None,
    delta: npt.ArrayLike | None = None,
    held_back: npt.ArrayLike | None = None,
    threshold: float = 0.5,
) -> Predicted:
    """Predictions for `labelled`; what is left out is as labelled, and nothing is held back."""
    names = tuple(labelled[0].flag)
    thresholds = np.full(len(names), threshold)
    is_held = np.zeros((len(labelled), len(names))) if held_back is None else np.asarray(held_back)
    truth = Predicted(
        turns=labelled,
        delta_names=tuple(labelled[0].delta),
        flag_names=names,
        delta=np.zeros((len(labelled), len(labelled[0].delta))),
        scores=np.zeros((len(labelled), len(names))),
        thresholds=thresholds,
        needed=np.where(is_held, np.inf, thresholds),
    )
    return Predicted(
        turns=labelled,
        delta_names=truth.delta_names,
        flag_names=names,
        delta=truth.true_delta if delta is None else np.asarray(delta, float),
        scores=truth.true_flag.astype(float) if scores is None else np.asarray(scores, float),
        thresholds=truth.thresholds,
        needed=truth.needed,
    )


def noisy(num: int, seed: int = 0, num_flags: int = 3, **changes: Sequence[Any]) -> Predicted:
    """Predictions that are somewhat right, for `num` random turns with two deltas."""
    rng = np.random.default_rng(seed)
    flags = rng.random((num, num_flags)) < 0.3
    deltas = np.round(rng.uniform(-1, 1, (num, 2)), 2)
    logits = 2 * flags - 1 + rng.normal(0, 1.5, flags.shape)
    return predict(
        turns(flags, deltas, **changes),
        1 / (1 + np.exp(-logits)),
        np.clip(deltas + rng.normal(0, 0.4, deltas.shape), -1, 1),
        rng.random(flags.shape) < 0.1,
    )
