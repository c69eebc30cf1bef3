"""How likely the labelled responses are under a model, beside its base before tuning."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import msgspec

from train.dataset import DatasetError, TurnLabel
from train.predicted import Grouped, grouped


@dataclass(frozen=True, slots=True)
class ReplyScore:
    """Nats of a turn's labelled response, summed over its `num_tokens`, end of sequence included.

    `untuned_nll`: the same under the base before tuning; None where it was not asked.
    """

    turn: TurnLabel
    num_tokens: int
    tuned_nll: float
    untuned_nll: float | None = None


class Surprise(msgspec.Struct, frozen=True):
    """`nll` in nats a token; `perplexity` is e to its power."""

    nll: float
    perplexity: float


class ReplySurprise(msgspec.Struct, frozen=True):
    """Of one set of responses; `untuned` is None unless all of them were scored by the base."""

    num_tokens: int
    tuned: Surprise
    untuned: Surprise | None


Perplexity = Grouped[ReplySurprise]


def perplexity(replies: Sequence[ReplyScore]) -> Perplexity:
    """Nats a token over all tokens of a set, not the mean over responses: long ones weigh more.

    Raises DatasetError if there is no response.
    """
    if not replies:
        raise DatasetError("no response to score; the split needs labelled turns")
    turns = [reply.turn for reply in replies]
    return grouped(turns, lambda rows: _surprises([replies[row] for row in rows]))


def _surprises(replies: Sequence[ReplyScore]) -> ReplySurprise:
    num_tokens = sum(reply.num_tokens for reply in replies)
    tuned = _surprise([reply.tuned_nll for reply in replies], num_tokens)
    untuned = [reply.untuned_nll for reply in replies if reply.untuned_nll is not None]
    is_whole = len(untuned) == len(replies)
    return ReplySurprise(num_tokens, tuned, _surprise(untuned, num_tokens) if is_whole else None)


def _surprise(nlls: Sequence[float], num_tokens: int) -> Surprise:
    nll = sum(nlls) / num_tokens
    return Surprise(nll, exp(nll))
