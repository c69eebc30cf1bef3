import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.merit import delta_merit, flag_merit, gain, sign_merit

FLAGS = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])


def test_scores_that_rank_every_raised_turn_first_are_perfect_whatever_their_scale() -> None:
    scores = np.array([[0.02, -5.0], [0.01, 7.0], [0.0, -5.1], [0.01, 6.0]])
    assert flag_merit(FLAGS, scores) == 1


def test_flags_count_alike_however_often_they_are_raised() -> None:
    flags = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    scores = np.array([[1.0, 4.0], [2.0, 3.0], [3.0, 2.0], [4.0, 1.0]])
    assert flag_merit(flags, scores) == pytest.approx((0.25 + 1) / 2)


def test_a_flag_that_is_never_raised_is_left_out() -> None:
    flags, scores = np.c_[FLAGS, np.zeros(4)], np.c_[1 - FLAGS, np.zeros(4)]
    assert flag_merit(flags, scores) == flag_merit(FLAGS, 1 - FLAGS) < 1
    assert flag_merit(np.zeros((3, 2)), np.zeros((3, 2))) == 0


def test_scores_that_know_nothing_are_worth_how_often_a_flag_is_raised() -> None:
    assert flag_merit(FLAGS, np.zeros((4, 2))) == pytest.approx((0.25 + 0.5) / 2)


LABELS = np.array([[0.1, -0.5], [0.3, 0.0], [0.9, 0.5]])


def test_deltas_as_labelled_are_perfect_and_the_median_knows_nothing() -> None:
    assert delta_merit(LABELS, LABELS) == 1
    assert delta_merit(LABELS, np.tile(np.median(LABELS, axis=0), (3, 1))) == 0


def test_half_the_error_of_the_median_is_worth_a_half() -> None:
    middle = (LABELS + np.median(LABELS, axis=0)) / 2
    assert delta_merit(LABELS, middle) == pytest.approx(0.5)


def test_what_is_worse_than_the_median_is_below_nothing_but_not_below_minus_one() -> None:
    median = np.median(LABELS, axis=0)
    assert delta_merit(LABELS, LABELS + 1.5 * (median - LABELS)) == pytest.approx(-0.5)
    assert delta_merit(LABELS, LABELS + 100) == -1


def test_labels_that_are_all_alike_leave_nothing_to_know() -> None:
    assert delta_merit(np.full((4, 2), 0.1), np.zeros((4, 2))) == 0


@given(seed=st.integers(0, 99), num_raised=st.integers(0, 20))
def test_merits_keep_their_ranges_and_do_not_mind_the_order_of_turns(
    seed: int, num_raised: int
) -> None:
    draw = np.random.default_rng(seed)
    flags = (np.arange(20)[:, np.newaxis] < num_raised).astype(np.float64)
    scores = draw.normal(size=(20, 1))
    labels, delta = draw.uniform(-1, 1, (2, 20, 2))
    flag, other = flag_merit(flags, scores), delta_merit(labels, delta)
    assert 0 <= flag <= 1 + 1e-9
    assert -1 <= other <= 1
    order = draw.permutation(20)
    assert flag_merit(flags[order], scores[order]) == pytest.approx(flag)
    assert delta_merit(labels[order], delta[order]) == pytest.approx(other)


def test_signs_count_where_labels_are_clear() -> None:
    labels = np.array([[0.5, -0.5], [0.01, 0.3], [-0.2, 0.0]])
    found = np.array([[0.1, -0.1], [-0.9, -0.3], [-0.1, 0.9]])
    assert sign_merit(labels, found) == pytest.approx(3 / 4)
    assert sign_merit(np.zeros((2, 2)), np.ones((2, 2))) == 1


def test_a_gain_is_the_difference_and_its_interval_that_of_whole_groups() -> None:
    draw = np.random.default_rng(0)
    labels, groups = draw.normal(0, 0.4, (200, 2)), np.repeat(np.arange(20), 10)
    near, far = (labels + draw.normal(0, error, labels.shape) for error in (0.1, 0.3))
    found = gain(delta_merit, labels, near, far, groups)
    assert found.value == delta_merit(labels, near) - delta_merit(labels, far)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.value < found.high
    alone = gain(delta_merit, labels, near, far, np.zeros(200))
    assert (alone.low, alone.high) == (None, None), "one group tells nothing of chance"
