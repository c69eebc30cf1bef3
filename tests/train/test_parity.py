"""What a variant is held against, in numbers small enough to work out by hand."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from msgspec.structs import replace

from tests.train.turns import label
from train.fit_heads import LinearHeads
from train.parity import (
    Likelihood,
    Measured,
    Parity,
    References,
    Speed,
    choose,
    compare,
    cosines,
    decisions_differ,
    kept_nll,
    kept_state,
    likelihood,
)
from train.states import Form, LabelledState

HEADS = LinearHeads(
    mean=np.zeros(2),
    scale=np.ones(2),
    w_delta=np.array([[1.0], [0.0]]),
    b_delta=np.zeros(1),
    w_flag=np.array([[0.0, 1.0], [1.0, 1.0]]),
    b_flag=np.zeros(2),
    temperature=1.0,
    thresholds=np.array([0.5, 0.9]),
)
"""Of a state (x, y): delta tanh(x); flags where y >= 0 and where sigmoid(x + y) >= 0.9."""
SPEED = Speed(prefill=100.0, decode=10.0)


def states(
    vectors: Sequence[Sequence[float]], nll: float = 6.0, num_answered: int = 3
) -> list[LabelledState]:
    """A state a turn, all with the same `nll` a reply."""
    return [
        LabelledState(
            label(number), Form.CONTINUED, np.array(vector, np.float32), nll, num_answered
        )
        for number, vector in enumerate(vectors)
    ]


AT_THE_BOUNDS = Parity(
    quantisation="q8_0",
    num_bytes=100,
    num_turns=10,
    cosine_mean=1.0,
    cosine_min=0.1,
    flags_agree=0.98,
    num_flags_differ=1,
    delta_difference=0.03,
    delta_difference_max=1.0,
    perplexity=5.0,
    kept_nll=0.9,
    kept_state=0.9,
    speed=SPEED,
)


def variant(name: str, num_bytes: int, **changes: float) -> Parity:
    """A variant that may serve, but for `changes`."""
    return replace(AT_THE_BOUNDS, quantisation=name, num_bytes=num_bytes, **changes)


def test_what_reads_the_very_same_states_agrees_in_everything() -> None:
    found = states([(1, 2), (-1, 0.5), (0.3, -2)])
    references = References(found, found, states([(0, 1), (0, 1), (0, 1)], nll=9.0))
    result = compare(Measured("f16", 7, found, SPEED), references, HEADS)
    assert result == Parity(
        quantisation="f16",
        num_bytes=7,
        num_turns=3,
        cosine_mean=1.0,
        cosine_min=1.0,
        flags_agree=1.0,
        num_flags_differ=0,
        delta_difference=0.0,
        delta_difference_max=0.0,
        perplexity=round(math.exp(2), 3),
        kept_nll=1.0,
        kept_state=1.0,
        speed=SPEED,
    )
    assert result.is_within


def test_decisions_differ_where_a_score_is_on_the_other_side_of_its_threshold() -> None:
    limit = math.log(0.9 / 0.1)
    expected = states([(0, 1), (0, 1), (0, limit + 0.1), (0.5, -1)])
    found = states([(0, 1), (0, -1), (0, limit - 0.1), (-0.5, -0.9)])
    delta, differs = decisions_differ(HEADS, found, expected)
    assert differs.tolist() == [[False, False], [True, False], [False, True], [False, False]]
    assert delta[:, 0] == pytest.approx([0, 0, 0, 2 * math.tanh(0.5)])


def test_the_share_of_flags_that_agree_counts_every_flag_of_every_turn() -> None:
    expected = states([(0, 1), (0, 1), (0, 1), (0, 1)])
    found = states([(0, 1), (0, -1), (math.atanh(0.4), 1), (0, 1)])
    references = References(expected, expected, states([(5, 5)] * 4, nll=9.0))
    result = compare(Measured("q4_0", 7, found, SPEED), references, HEADS)
    assert (result.flags_agree, result.num_flags_differ) == (round(7 / 8, 5), 1)
    assert result.delta_difference == pytest.approx(0.4 / 4, abs=1e-5)
    assert result.delta_difference_max == pytest.approx(0.4, abs=1e-4)


def test_cosines_are_those_of_each_turns_vectors_whatever_their_length() -> None:
    found = cosines(
        states([(1, 0), (1, 0), (1, 1), (2, 2)]), states([(3, 0), (-1, 0), (5, 0), (1, -1)])
    )
    assert found == pytest.approx([1, -1, math.sqrt(0.5), 0], abs=1e-7)


def test_the_least_and_the_mean_cosine_are_told() -> None:
    expected = states([(1, 0), (1, 0)])
    references = References(expected, expected, states([(5, 5)] * 2, nll=9.0))
    result = compare(Measured("q4_0", 7, states([(1, 0), (1, 1)]), SPEED), references, HEADS)
    assert result.cosine_min == pytest.approx(0.70711)
    assert result.cosine_mean == pytest.approx(0.85355)


def test_a_likelihood_is_a_mean_over_tokens_not_over_replies() -> None:
    mixed = [*states([(0, 0)], 2.0, 1), *states([(0, 0)], 10.0, 9)]
    found = likelihood(mixed)
    assert found == Likelihood(1.2, 10)
    assert found.perplexity == pytest.approx(math.exp(1.2))


@pytest.mark.parametrize(("nll", "kept"), [(2.0, 1.0), (2.2, 0.8), (3.0, 0.0), (3.5, -0.5)])
def test_what_is_kept_of_the_nll_is_its_share_of_what_training_took_off(
    nll: float, kept: float
) -> None:
    whole, untrained = Likelihood(2.0, 10), Likelihood(3.0, 10)
    assert kept_nll(Likelihood(nll, 10), whole, untrained) == pytest.approx(kept)


def test_what_is_kept_of_the_state_is_measured_by_how_far_training_moved_it() -> None:
    whole, untrained = states([(0, 0), (1, 1)]), states([(0, 2), (1, 3)])
    assert kept_state(whole, whole, untrained) == 1
    assert kept_state(untrained, whole, untrained) == 0
    near = states([(0, 1), (1, 1)])
    assert kept_state(near, whole, untrained) == pytest.approx(1 - 0.5 / 4)


def test_what_is_kept_is_held_against_f16_and_all_else_against_pytorch() -> None:
    exact, whole = states([(0, 1), (0, 1)], nll=3.0), states([(1, 1), (1, 1)], nll=6.0)
    references = References(exact, whole, states([(1, 3), (1, 3)], nll=12.0))
    found = states([(1, 2), (1, 2)], nll=9.0)
    result = compare(Measured("q4_0", 7, found, SPEED), references, HEADS)
    assert result.kept_nll == 0.5
    assert result.kept_state == 0.75
    assert result.delta_difference == pytest.approx(math.tanh(1), abs=1e-5)
    assert result.cosine_mean == result.cosine_min == pytest.approx(2 / math.sqrt(5), abs=1e-5)
    assert result.perplexity == round(math.exp(3), 3)


@pytest.mark.parametrize("other", [[(0, 0)], [(0, 0), (0, 0), (0, 0)]])
def test_states_of_other_turns_are_not_compared(other: list[tuple[float, float]]) -> None:
    two = states([(0, 0), (1, 1)])
    with pytest.raises(AssertionError, match="the same turns"):
        cosines(two, states(other))
    with pytest.raises(AssertionError, match="the same turns"):
        decisions_differ(HEADS, two, two[::-1])


def test_a_variant_at_the_bounds_may_serve() -> None:
    assert AT_THE_BOUNDS.is_within


@pytest.mark.parametrize(
    "beyond",
    [{"flags_agree": 0.97}, {"delta_difference": 0.04}, {"kept_nll": 0.89}, {"kept_state": 0.89}],
)
def test_a_variant_beyond_any_bound_may_not_serve(beyond: dict[str, float]) -> None:
    assert not replace(AT_THE_BOUNDS, **beyond).is_within


def test_the_smallest_variant_within_the_bounds_is_chosen_and_who_falls_short_is_named() -> None:
    variants = [
        variant("f16", 400),
        variant("q8_0", 200),
        variant("q5_0", 150, kept_state=0.5),
        variant("q4_0", 100, flags_agree=0.9),
    ]
    for order in (variants, variants[::-1]):
        chosen, why = choose(order)
        assert chosen.quantisation == "q8_0"
        short = [v.quantisation for v in order if v.num_bytes < 200]
        assert why.endswith(f"; {', '.join(short)} fall short")
        assert "at least 98% of flag decisions the same" in why
        assert "at most 0.03, 90% of the effect kept" in why


def test_nobody_is_said_to_fall_short_where_nobody_does() -> None:
    chosen, why = choose([variant("f16", 400), variant("q8_0", 200)])
    assert chosen.quantisation == "q8_0"
    assert "fall short" not in why


def test_where_none_is_within_the_bounds_the_most_faithful_one_is_taken_and_that_is_said() -> None:
    variants = [
        variant("f16", 400, kept_state=0.8, flags_agree=0.90),
        variant("q8_0", 200, kept_state=0.8, flags_agree=0.95),
        variant("q4_0", 100, kept_state=0.3),
    ]
    chosen, why = choose(variants)
    assert chosen.quantisation == "q8_0"
    assert why.startswith("none is within the bounds")
