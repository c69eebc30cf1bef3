"""Bootstrap intervals: how far a figure moves when whole groups of turns are drawn anew."""

import msgspec
import numpy as np

from train.fit_heads import Array

NUM_RESAMPLES = 2_000
_SEED = 0


class Estimate(msgspec.Struct, frozen=True):
    """A figure and its 95% interval; None where undefined (the interval: fewer than two groups)."""

    value: float | None
    low: float | None = None
    high: float | None = None


def resamples(num_groups: int) -> Array:
    """How often each group is drawn [NUM_RESAMPLES, num_groups]; no resample of a single one.

    As many are drawn as there are, with replacement. The seed is fixed.
    """
    if num_groups < 2:
        return np.empty((0, num_groups))
    rng = np.random.default_rng(_SEED)
    shares = np.full(num_groups, 1 / num_groups)
    return rng.multinomial(num_groups, shares, NUM_RESAMPLES).astype(np.float64)


def estimate(value: float, samples: Array) -> Estimate:
    """`value` with the percentile interval (Efron 1979) of `samples` [m]; NaN is undefined."""
    if np.isnan(value):
        return Estimate(None)
    defined = samples[~np.isnan(samples)]
    if not len(defined):
        return Estimate(float(value))
    low, high = np.percentile(defined, [2.5, 97.5])
    return Estimate(float(value), float(low), float(high))
