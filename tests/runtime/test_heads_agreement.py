"""The measure itself: it must let rounding pass and catch a stale STATE."""

import numpy as np
import pytest

from runtime.llama_backend import Vector
from tests.runtime.heads_agreement import assert_heads_agree, shares_of_a_turn

STATES = [np.array([0.0, 1.0], np.float32), np.array([0.4, 1.0], np.float32)]


def heads(states: Vector) -> tuple[Vector, Vector]:
    return np.tanh(states), (states > 0.5).astype(np.float32)


def test_rounding_passes() -> None:
    found = [state + np.float32(0.01) for state in STATES]
    assert max(shares_of_a_turn(STATES, found)) == pytest.approx(0.0354, abs=1e-3)
    assert_heads_agree(STATES, found, heads)


def test_the_state_of_the_turn_before_is_caught() -> None:
    stale = [STATES[0], STATES[0]]
    assert shares_of_a_turn(STATES, stale) == pytest.approx([0, 1])
    with pytest.raises(AssertionError):
        assert_heads_agree(STATES, stale, heads)


def test_a_flag_that_flips_is_caught() -> None:
    states = [np.array([0.499], np.float32)]
    with pytest.raises(AssertionError):
        assert_heads_agree(states, [states[0] + np.float32(0.002)], heads)
