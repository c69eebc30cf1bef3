import numpy as np
import pytest

from tests.train.turns import label
from train.dataset import DatasetError
from train.fit_heads import Array, Targets, best_threshold, fit, make_targets
from train.metrics import majority_baseline, score
from train.states import Form, LabelledState

SIZE, COUNT = 6, 1_500
RULE = np.random.default_rng(7).normal(0, 1, (SIZE, 2))


def draw(count: int, seed: int) -> Array:
    """States far from centred and of unequal scale, as embeddings are."""
    return np.random.default_rng(seed).normal(5, 1, (count, SIZE)) * 10.0 ** np.arange(-2, SIZE - 2)


def normal(states: Array) -> Array:
    return states / 10.0 ** np.arange(-2, SIZE - 2) - 5


def labelled(states: Array) -> list[LabelledState]:
    return [
        LabelledState(label(number), Form.CONTINUED, state.astype(np.float32))
        for number, state in enumerate(states)
    ]


def targets(delta: Array, flag: Array, num_groups: int = 50) -> Targets:
    groups = np.array([f"g{number % num_groups}" for number in range(len(delta))])
    names = tuple(f"flag_{number}" for number in range(flag.shape[1]))
    return Targets(delta, flag, groups, names)


def linear_labels(states: Array) -> tuple[Array, Array]:
    logits = normal(states) @ RULE
    return np.tanh(0.3 * logits), (logits > 0.5).astype(float)


def test_a_linear_rule_is_found_again_on_states_never_seen() -> None:
    states, unseen = draw(COUNT, 0), draw(500, 1)
    heads, _ = fit(labelled(states), targets(*linear_labels(states)))
    true_delta, true_flag = linear_labels(unseen)
    delta, scores = heads.predict(unseen)
    names, raised = ["a", "b"], (scores >= heads.thresholds).astype(float)
    result = score(delta, raised, true_delta, true_flag, names)
    baseline = majority_baseline(*linear_labels(states), true_delta, true_flag, names)
    assert result.delta_mae < 0.7 * baseline.delta_mae, "less than all: the penalty shrinks it"
    assert result.sign_accuracy == 1.0
    assert result.flag_macro_f1 > 0.95
    assert result.sign_accuracy is not None
    assert result.sign_accuracy > 0.99


def test_scores_are_probabilities_once_the_temperature_is_fitted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.fit_heads.LOGISTIC_CS", (3e-3,))  # alone it gives timid scores
    states, unseen = draw(COUNT, 2), draw(500, 3)

    def probability(of: Array) -> Array:
        result: Array = 1 / (1 + np.exp(-3 * normal(of) @ RULE))
        return result

    drawn = np.random.default_rng(4).random((COUNT, 2)) < probability(states)
    flags = drawn.astype(float)
    heads, _ = fit(labelled(states), targets(np.zeros((COUNT, 2)), flags))
    _, scores = heads.predict(unseen)
    assert np.abs(scores - probability(unseen)).mean() < 0.06
    untempered = 1 / (1 + np.exp(-heads.temperature * np.log(scores / (1 - scores))))
    assert np.abs(untempered - probability(unseen)).mean() > 0.06


def test_a_delta_of_one_is_no_infinite_target() -> None:
    states = draw(100, 5)
    delta = np.sign(normal(states) @ RULE)
    heads, _ = fit(labelled(states), targets(delta, (delta > 0).astype(float)))
    assert np.isfinite(heads.predict(states)[0]).all()


def test_too_few_groups_are_an_error_that_says_so() -> None:
    states = draw(40, 6)
    with pytest.raises(DatasetError, match="4 split groups to fit on"):
        fit(labelled(states), targets(*linear_labels(states), num_groups=4))


def test_a_flag_that_is_raised_in_one_group_only_is_an_error_that_names_it() -> None:
    states = draw(50, 6)
    delta, flag = linear_labels(states)
    flag[:, 1] = [number % 10 == 3 for number in range(50)]
    with pytest.raises(DatasetError, match="flag flag_1: too few split groups"):
        fit(labelled(states), targets(delta, flag, num_groups=10))


def test_targets_are_columns_in_the_order_of_the_names() -> None:
    states = labelled(draw(2, 0))
    made = make_targets(states, ["relationship", "trust"], ["quest_stage_change", "give_item"])
    assert made.delta.tolist() == [[0.0, 0.1], [0.0, 0.1]]
    assert made.flag.tolist() == [[0, 0], [0, 1]]
    assert made.groups.tolist() == ["g", "g"]


def test_a_threshold_parts_two_clusters_and_keeps_its_distance_from_both() -> None:
    labels, logits = (
        np.repeat([0.0, 1.0], 20),
        np.r_[np.linspace(-4, -2, 20), np.linspace(1, 3, 20)],
    )
    best = best_threshold(labels, 1 / (1 + np.exp(-logits)))
    assert -1.5 < np.log(best / (1 - best)) < 0.5


def test_a_threshold_is_not_drawn_to_one_lucky_example() -> None:
    logits = np.r_[np.linspace(-4, -1, 30), -3.95, np.linspace(1, 3, 10)]
    labels = np.r_[np.zeros(30), 1, np.ones(10)]
    best = best_threshold(labels, 1 / (1 + np.exp(-logits)))
    assert np.log(best / (1 - best)) > -1


def test_deltas_of_other_heads_say_the_same_in_another_normalisation() -> None:
    states, others = draw(COUNT, 0), draw(COUNT, 1)
    first, second = (
        fit(labelled(drawn), targets(*linear_labels(drawn)))[0] for drawn in (states, others)
    )
    mixed = first.with_deltas_of(second)
    for drawn in (states, others):
        delta, scores = mixed.predict(drawn)
        np.testing.assert_allclose(delta, second.predict(drawn)[0], atol=1e-9)
        np.testing.assert_array_equal(scores, first.predict(drawn)[1])
