"""What the attempts at a line came to: where the first may not leave, it is asked for again."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from runtime.sequence import Done
from server.schemas import TimingsMeta, UsageMeta


def usage_of(attempts: Sequence[Done]) -> UsageMeta:
    """The tokens of all attempts together."""
    usages = [done.usage for done in attempts]
    return UsageMeta(
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        cached_tokens=sum(usage.cached_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
    )


def timings_of(attempts: Sequence[Done]) -> TimingsMeta:
    """The first attempt's way to its state, and the last one's line, since the first submission.

    Each was submitted when the one before was over.
    """
    if not attempts:
        return TimingsMeta()
    times = attempts[0].timings
    for done in attempts[1:]:
        before, line = times.total or 0.0, done.timings
        first_token, total = _after(before, line.first_token), _after(before, line.total)
        times = replace(times, first_token=first_token, total=total)
    spans = asdict(times)
    return TimingsMeta(**{name: round(ms, 2) for name, ms in spans.items() if ms is not None})


def _after(before: float, span: float | None) -> float | None:
    return None if span is None else before + span
