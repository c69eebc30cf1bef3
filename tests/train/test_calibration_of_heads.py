from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.fit_heads import (
    NEVER_SEEN,
    Array,
    LinearHeads,
    best_threshold,
    calibrated,
)

COUNT = 6_000


def heads(confidence: float = 1.0, num_flags: int = 2) -> LinearHeads:
    """Flag i is certain of itself by `confidence` times dimension i; the delta is tanh of them."""
    return LinearHeads(
        mean=np.full(num_flags, 5.0),
        scale=np.full(num_flags, 2.0),
        w_delta=np.ones((num_flags, 1)),
        b_delta=np.zeros(1),
        w_flag=confidence * np.eye(num_flags),
        b_flag=np.zeros(num_flags),
        temperature=1.0,
        thresholds=np.full(num_flags, 0.5),
    )


def sigmoid(x: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-x))
    return result


def draw(seed: int = 0, num_flags: int = 2) -> tuple[Array, Array, Array]:
    """States, the true chance of each flag, and flags raised by it."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (COUNT, num_flags))
    chance = sigmoid(logits)
    raised = rng.random(chance.shape) < chance
    return 5 + 2 * logits, chance, raised.astype(float)


def f1(labels: Array, raised: Array) -> float:
    return float(2 * (labels * raised).sum() / (labels.sum() + raised.sum()))


@pytest.mark.parametrize("confidence", [0.5, 1.0, 3.0])
def test_the_temperature_takes_back_what_heads_are_too_sure_or_too_timid_by(
    confidence: float,
) -> None:
    states, chance, flags = draw()
    found = calibrated(heads(confidence), states, flags)
    assert found.temperature == pytest.approx(confidence, rel=0.05)
    assert np.abs(found.predict(states)[1] - chance).max() < 0.02


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_calibrating_calibrated_heads_again_changes_nothing(temperature: float) -> None:
    states, _, flags = draw()
    before = replace(heads(2.0), temperature=temperature, thresholds=np.array([0.1, 0.9]))
    found, expected = (calibrated(h, states[:300], flags[:300]) for h in (before, heads(2.0)))
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-6)
    np.testing.assert_allclose(found.thresholds, expected.thresholds)


def test_one_temperature_serves_all_flags_and_nothing_else_of_the_heads_is_touched() -> None:
    states, _, flags = draw()
    before = heads(3.0)
    found = calibrated(before, states, flags)
    assert np.array_equal(found.predict(states)[0], before.predict(states)[0])
    for name in ("mean", "scale", "w_delta", "b_delta", "w_flag", "b_flag"):
        assert getattr(found, name) is getattr(before, name)
    assert before.temperature == 1, "the heads that were given stay as they were"


@pytest.mark.parametrize("confidence", [0.5, 1.0, 3.0])
def test_thresholds_are_those_of_the_scores_that_will_be_held_against_them(
    confidence: float,
) -> None:
    states, _, flags = draw()
    flags[:, 1] *= np.random.default_rng(1).random(COUNT) < 0.2  # another threshold is best
    found = calibrated(heads(confidence), states, flags)
    _, scores = found.predict(states)
    for labels, column, threshold in zip(flags.T, scores.T, found.thresholds, strict=True):
        best = max(f1(labels, (column >= at).astype(float)) for at in np.linspace(0.01, 0.99, 99))
        assert f1(labels, (column >= threshold).astype(float)) > best - 0.01
    assert found.thresholds == pytest.approx([0.416, 0.584], abs=0.01)


def test_a_flag_that_is_never_raised_keeps_a_threshold_of_its_own() -> None:
    states, _, flags = draw()
    flags[:, 1] = 0
    found = calibrated(heads(), states, flags)
    assert found.thresholds[1] == NEVER_SEEN
    assert found.thresholds[0] < 0.45


@given(seed=st.integers(0, 999), num_raised=st.integers(1, 30), spread=st.floats(0, 30))
def test_a_threshold_lies_within_the_scores_that_it_was_chosen_by(
    seed: int, num_raised: int, spread: float
) -> None:
    scores = sigmoid(spread * np.random.default_rng(seed).standard_normal(30))
    labels = (np.arange(30) < num_raised).astype(float)
    threshold = best_threshold(labels, scores)
    assert scores.min() - 1e-9 <= threshold <= scores.max() + 1e-9
