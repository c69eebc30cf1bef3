import numpy as np
import pytest

from train.metrics import majority_baseline, score


def test_scores_are_what_their_names_say() -> None:
    true_delta = np.array([[0.5, 0.0], [-0.5, 0.05]])
    true_flag = np.array([[1, 0], [0, 0]])
    raised = np.array([[1, 1], [1, 0]])
    result = score(np.array([[0.4, 0.1], [0.1, 0.05]]), raised, true_delta, true_flag, ["a", "b"])
    assert result.flag_f1 == pytest.approx({"a": 2 / 3, "b": 0.0})
    assert result.flag_macro_f1 == pytest.approx(2 / 3), "b does not occur"
    assert result.delta_mae == pytest.approx((0.1 + 0.1 + 0.6) / 4)
    assert result.sign_accuracy == 0.5
    assert result.rounded()["flag_f1"] == {"a": 0.667, "b": 0.0}


def test_the_baseline_says_the_median_and_the_commoner_flag() -> None:
    fitted_delta, fitted_flag = np.array([[0.1], [0.2], [0.9]]), np.array([[1], [1], [0]])
    true_delta, true_flag = np.array([[0.2], [0.4]]), np.array([[1], [0]])
    result = majority_baseline(fitted_delta, fitted_flag, true_delta, true_flag, ["a"])
    assert result.delta_mae == pytest.approx(0.1)
    assert result.flag_f1["a"] == pytest.approx(2 / 3)


def test_without_a_clear_delta_there_is_no_sign_accuracy() -> None:
    zeros = np.zeros((2, 1))
    result = score(zeros, zeros > 0, zeros, zeros, ["a"])
    assert result.sign_accuracy is None
    assert result.rounded()["sign_accuracy"] is None
