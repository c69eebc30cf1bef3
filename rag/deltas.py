"""What a predicted delta may come to."""

from heads.spec import DeltaSpec
from rag.documents import DeltaPolicy


def bounded(value: float, head: DeltaSpec, policy: DeltaPolicy | None = None) -> float:
    """A delta inside the head's range and the world's policy, to three decimals."""
    low, high = limits(policy or DeltaPolicy())
    return round(max(low, head.min, min(high, head.max, value)), 3) + 0.0  # no -0.0


def limits(policy: DeltaPolicy) -> tuple[float, float]:
    """The least and the most that a delta may come to in one turn."""
    return max(policy.min, -policy.per_turn_cap), min(policy.max, policy.per_turn_cap)
