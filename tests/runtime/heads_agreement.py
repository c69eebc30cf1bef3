"""When two STATE vectors of the same prompt say the same: by distance, and by what heads say."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from scipy.stats import binom

from runtime.llama_backend import Vector

MAX_SHARE_OF_A_TURN = 0.25
MAX_DELTA = 0.02
"""For 99% of deltas; none is off by more than half as much again. The heads of a base that was not
trained follow rounding: of 96 deltas one was off by 0.0203, the next by 0.0172."""
MAX_FLAGS = 0.01
"""As a rate: of a hundred decisions two may differ by chance where it holds."""

Heads: TypeAlias = Callable[[Vector], tuple[Vector, Vector]]
"""From states [batch, n_embd] to deltas [batch, n_delta] and raised flags [batch, n_flags]."""


def shares_of_a_turn(expected: Sequence[Vector], found: Sequence[Vector]) -> list[float]:
    """How far each STATE lies off, as a share of the distance to the nearest neighbouring turn's.

    Cosines would not do: those of neighbouring turns lie above 0.99 already.
    """
    steps = [float(np.linalg.norm(b - a)) for a, b in pairwise(expected)]
    nearest = [min(pair) for pair in zip([*steps, np.inf], [np.inf, *steps], strict=True)]
    errors = [float(np.linalg.norm(b - a)) for a, b in zip(expected, found, strict=True)]
    return [error / step for error, step in zip(errors, nearest, strict=True)]


def assert_heads_agree(expected: Sequence[Vector], found: Sequence[Vector], heads: Heads) -> None:
    """Deltas about within MAX_DELTA, and no more flags different than MAX_FLAGS explains.

    That is the 99th percentile of a binomial: another CPU moves single decisions.
    """
    expected_delta, expected_flags = heads(np.stack(expected))
    found_delta, found_flags = heads(np.stack(found))
    difference = np.abs(found_delta - expected_delta)
    assert np.quantile(difference, 0.99) <= MAX_DELTA
    assert difference.max() <= 1.5 * MAX_DELTA
    num_different = int((found_flags != expected_flags).sum())
    assert num_different <= binom.ppf(0.99, expected_flags.size, MAX_FLAGS)
