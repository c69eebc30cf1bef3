"""What a predicted delta may come to."""

from heads.spec import DeltaSpec
from rag.documents import DeltaPolicy


def bounded(value: float, head: DeltaSpec, policy: DeltaPolicy | None = None) -> float:
    """A delta inside the head's range and the world's policy, to three decimals."""
    policy = policy or DeltaPolicy()
    low = max(head.min, policy.min, -policy.per_turn_cap)
    high = min(head.max, policy.max, policy.per_turn_cap)
    return round(max(low, min(high, value)), 3) + 0.0  # no -0.0
