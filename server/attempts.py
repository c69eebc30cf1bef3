"""A line that is asked for once more where the first may not leave, and what all of it came to."""

from collections.abc import Sequence
from dataclasses import asdict, replace

from runtime.sampling import MAX_SEED
from runtime.sentences import SentenceWatch
from runtime.sequence import Done, Request
from server.schemas import TimingsMeta, UsageMeta

RETRY_TEMPERATURE = 0.7
"""At least this hot is a line asked for again: the coldest would only repeat itself."""


def again(request: Request, decision: Sequence[int]) -> Request:
    """The same line asked for once more, of another seed, after the decision that stands.

    A request without `on_state` has it in its prompt already.
    """
    sampling = request.sampling
    seed = None if sampling.seed is None else (sampling.seed + 1) % MAX_SEED
    temperature = max(sampling.temperature, RETRY_TEMPERATURE)
    return replace(
        request,
        prompt=[*request.prompt, *(decision if request.on_state else [])],
        sampling=replace(sampling, temperature=temperature, seed=seed),
        on_state=None,
        is_due=SentenceWatch(),
    )


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
