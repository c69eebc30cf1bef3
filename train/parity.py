"""Whether what serves decides what was trained: a GGUF variant's states against PyTorch's.

Both are judged by the same heads and thresholds, turn by turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from train.fit_heads import Array, LinearHeads
from train.states import LabelledState, stack

MIN_AGREEMENT = 0.98
MAX_DELTA_DIFFERENCE = 0.03
MIN_KEPT = 0.9


class Likelihood(msgspec.Struct, frozen=True):
    """How likely the labelled replies are."""

    nll: float
    """Nats a token."""
    num_tokens: int

    @property
    def perplexity(self) -> float:
        """exp(nll)."""
        return float(np.exp(self.nll))


class Speed(msgspec.Struct, frozen=True):
    """Tokens a second, medians."""

    prefill: float
    decode: float


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """One variant beside PyTorch."""

    quantisation: str
    num_bytes: int
    num_turns: int
    cosine_mean: float
    cosine_min: float
    flags_agree: float
    """Share of flag decisions that are the same."""
    num_flags_differ: int
    delta_difference: float
    """Mean of |delta - PyTorch's|."""
    delta_difference_max: float
    perplexity: float
    kept_nll: float
    """What training took off the replies' NLL, the share of it that is left (1 in F16)."""
    kept_state: float
    """1 - |STATE - F16's|² / |untrained STATE - F16's|², means over turns."""
    speed: Speed

    @property
    def is_within(self) -> bool:
        """Whether it may serve: decisions within the bounds, the adapter's effect kept."""
        return (
            self.flags_agree >= MIN_AGREEMENT
            and self.delta_difference <= MAX_DELTA_DIFFERENCE
            and min(self.kept_nll, self.kept_state) >= MIN_KEPT
        )


def likelihood(states: Sequence[LabelledState]) -> Likelihood:
    """Of the replies of `states`, which were read with their NLL."""
    nll = sum(state.nll for state in states if state.nll is not None)
    num_tokens = sum(state.num_answered for state in states)
    return Likelihood(nll / num_tokens, num_tokens)


def decisions_differ(
    heads: LinearHeads, found: Sequence[LabelledState], expected: Sequence[LabelledState]
) -> tuple[Array, Array]:
    """`(|delta differences| [n, n_delta], whether a flag differs [n, n_flags])`, turn by turn."""
    _check_same_turns(found, expected)
    (delta, flags), (true_delta, true_flags) = (
        heads.predict(stack(states)) for states in (found, expected)
    )
    raised = flags >= heads.thresholds
    return np.abs(delta - true_delta), raised != (true_flags >= heads.thresholds)


def cosines(found: Sequence[LabelledState], expected: Sequence[LabelledState]) -> Array:
    """Cosine of each turn's `<STATE>` vectors, [n]."""
    _check_same_turns(found, expected)
    a, b = np.float64(stack(found)), np.float64(stack(expected))
    products = (a * b).sum(axis=1)
    cosine: Array = products / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


def kept_state(
    states: Sequence[LabelledState],
    whole: Sequence[LabelledState],
    untrained: Sequence[LabelledState],
) -> float:
    """How much nearer `states` are to `whole` (F16) than those of the base without its adapter.

    1 where training has changed nothing.
    """
    _check_same_turns(states, whole)
    _check_same_turns(untrained, whole)
    a, b, base = (np.float64(stack(part)) for part in (states, whole, untrained))
    effect = np.square(base - b).sum(axis=1).mean()
    return float(1 - np.square(a - b).sum(axis=1).mean() / effect) if effect else 1.0


def kept_nll(states: Likelihood, whole: Likelihood, untrained: Likelihood) -> float:
    """How much of the gain in NLL from `untrained` to `whole` (F16) `states` have; 1 of none."""
    gain = untrained.nll - whole.nll
    return (untrained.nll - states.nll) / gain if gain else 1.0


def choose(variants: Sequence[Parity]) -> tuple[Parity, str]:
    """The smallest variant that may serve, and why; the most faithful one if none may."""
    within = [variant for variant in variants if variant.is_within]
    if not within:
        best = max(variants, key=lambda variant: (variant.kept_state, variant.flags_agree))
        return best, "none is within the bounds; the most faithful one is taken"
    chosen = min(within, key=lambda variant: variant.num_bytes)
    smaller = [v.quantisation for v in variants if v.num_bytes < chosen.num_bytes]
    why = f"the smallest with at least {MIN_AGREEMENT:.0%} of flag decisions the same, "
    why += f"|delta difference| at most {MAX_DELTA_DIFFERENCE}, {MIN_KEPT:.0%} of the effect kept"
    return chosen, why + (f"; {', '.join(smaller)} fall short" if smaller else "")


@dataclass(frozen=True, slots=True)
class References:
    """What variants are held against: PyTorch's states, those in F16, those without training."""

    exact: Sequence[LabelledState]
    whole: Sequence[LabelledState]
    untrained: Sequence[LabelledState]


@dataclass(frozen=True, slots=True)
class Measured:
    """A variant, what it read, and how fast."""

    quantisation: str
    num_bytes: int
    states: Sequence[LabelledState]
    speed: Speed


def compare(variant: Measured, references: References, heads: LinearHeads) -> Parity:
    """A variant beside `references`, both judged by `heads`."""
    states = variant.states
    delta, differs = decisions_differ(heads, states, references.exact)
    cosine = cosines(states, references.exact)
    found, whole, untrained = map(likelihood, (states, references.whole, references.untrained))
    return Parity(
        quantisation=variant.quantisation,
        num_bytes=variant.num_bytes,
        num_turns=len(states),
        cosine_mean=round(float(cosine.mean()), 5),
        cosine_min=round(float(cosine.min()), 5),
        flags_agree=round(float(1 - differs.mean()), 5),
        num_flags_differ=int(differs.sum()),
        delta_difference=round(float(delta.mean()), 5),
        delta_difference_max=round(float(delta.max()), 4),
        perplexity=round(found.perplexity, 3),
        kept_nll=round(kept_nll(found, whole, untrained), 4),
        kept_state=round(kept_state(states, references.whole, references.untrained), 4),
        speed=variant.speed,
    )


def _check_same_turns(found: Sequence[LabelledState], expected: Sequence[LabelledState]) -> None:
    named = [[(s.label.conversation, s.label.turn, s.form) for s in p] for p in (found, expected)]
    assert named[0] == named[1], "the same turns in the same order"
