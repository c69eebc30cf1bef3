"""Sampling parameters: every valid value works, however odd; others are refused by name."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.llama_backend import Chunk, LlamaModel, Sampler
from runtime.sampling import MAX_SEED, SamplingParams
from runtime.sequence import Request
from tests.runtime.driving import RecordingContext, by_hand, greedy, open_context

PROMPT = [5, 6, 7]
PLAIN = SamplingParams(1.0, top_k=0, top_p=1, min_p=0, repetition_penalty=1, seed=3, max_tokens=8)


def draw(model: LlamaModel, params: SamplingParams) -> tuple[int, ...]:
    with by_hand(model) as bench:
        return bench.finish_one(Request(PROMPT, params)).done.tokens


def draw_many(context: RecordingContext, params: SamplingParams, count: int = 200) -> list[int]:
    """First tokens of as many replies, seeded 0, 1, 2, …"""
    context.clear()
    (row,) = context.decode([Chunk(0, 0, PROMPT, is_output=True)])
    drawn = []
    for seed in range(count):
        sampler = Sampler(replace(params, seed=seed), context.model.n_vocab)
        drawn.append(sampler.sample(context, row))
        sampler.close()
    return drawn


def likeliest(context: RecordingContext, count: int) -> set[int]:
    return set(np.argsort(context.batches[-1].logits[0])[-count:].tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"temperature": 5.0},
        {"temperature": 1e-38},
        {"temperature": 5e-324},
        {"temperature": 1e-4},
        {"top_k": 1_000},
        {"top_p": 0.0},
        {"min_p": 1.0},
        {"repetition_penalty": 0.1},
        {"repetition_penalty": 10.0},
        {"seed": 0},
        {"seed": MAX_SEED},
        {"max_tokens": 1},
        {"top_k": 1_000, "top_p": 0.0, "min_p": 1.0, "temperature": 5.0},
        {"stop": ("", "x" * 10_000)},
    ],
)
def test_extreme_but_valid_parameters_give_tokens_of_the_vocabulary(
    tiny: LlamaModel, changes: dict[str, Any]
) -> None:
    tokens = draw(tiny, replace(PLAIN, **changes))
    assert all(0 <= token < tiny.n_vocab for token in tokens)
    assert len(tokens) <= replace(PLAIN, **changes).max_tokens


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1; it must be from 0 to 5"),
        ({"temperature": 5.1}, "temperature is 5.1; it must be from 0 to 5"),
        ({"temperature": float("nan")}, "temperature is nan; it must be from 0 to 5"),
        ({"temperature": float("inf")}, "temperature is inf; it must be from 0 to 5"),
        ({"top_k": -1}, "top_k is -1; it must be from 0 to 1000"),
        ({"top_p": 1.01}, "top_p is 1.01; it must be from 0 to 1"),
        ({"min_p": -1}, "min_p is -1; it must be from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be from 0.1 to 10"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be from 1 to 4096"),
        ({"max_tokens": 4_097}, "max_tokens is 4097; it must be from 1 to 4096"),
        ({"seed": -1}, f"seed is -1; it must be from 0 to {MAX_SEED}"),
        ({"seed": MAX_SEED + 1}, f"seed is {MAX_SEED + 1}; it must be from 0 to {MAX_SEED}"),
    ],
)
def test_a_value_out_of_range_is_refused_with_name_value_and_range(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        SamplingParams(**changes)


@settings(max_examples=30)
@given(
    params=st.builds(
        SamplingParams,
        temperature=st.floats(0, 5),
        top_k=st.integers(0, 1_000),
        top_p=st.floats(0, 1),
        min_p=st.floats(0, 1),
        repetition_penalty=st.floats(0.1, 10),
        seed=st.none() | st.integers(0, MAX_SEED),
        max_tokens=st.integers(1, 6),
    )
)
def test_any_valid_parameters_give_tokens_of_the_vocabulary(
    qwen: LlamaModel, params: SamplingParams
) -> None:
    tokens = draw(qwen, params)
    assert all(0 <= token < qwen.n_vocab for token in tokens)


@pytest.mark.parametrize("temperature", [0.0, 5e-324, 1e-38, 1e-6, 1e-4])
def test_towards_zero_temperature_becomes_greedy(tiny: LlamaModel, temperature: float) -> None:
    assert draw(tiny, replace(PLAIN, temperature=temperature)) == draw(tiny, greedy(8))


@pytest.mark.parametrize("changes", [{"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}])
def test_parameters_that_leave_one_token_are_greedy(
    tiny: LlamaModel, changes: dict[str, Any]
) -> None:
    assert draw(tiny, replace(PLAIN, temperature=5.0, **changes)) == draw(tiny, greedy(8))


def test_top_k_leaves_the_k_likeliest_tokens(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        drawn = draw_many(context, replace(PLAIN, temperature=5.0, top_k=3))
        assert set(drawn) == likeliest(context, 3)


def test_top_p_leaves_the_likeliest_tokens_that_make_up_p(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        drawn = draw_many(context, replace(PLAIN, top_p=0.02))
        logits = context.batches[-1].logits[0].astype(np.float64)
        shares = np.sort(np.exp(logits) / np.exp(logits).sum())[::-1]
        kept = int(np.searchsorted(shares.cumsum(), 0.02)) + 1
        assert 1 < kept < 20
        assert set(drawn) == likeliest(context, kept)


def test_min_p_leaves_tokens_of_that_share_of_the_likeliest(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        drawn = draw_many(context, replace(PLAIN, min_p=0.6))
        logits = context.batches[-1].logits[0]
        kept = int((logits >= logits.max() + np.log(0.6)).sum())
        assert 1 < kept < 20
        assert set(drawn) == likeliest(context, kept)


def test_without_filters_unlikely_tokens_are_drawn_too(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        drawn = draw_many(context, replace(PLAIN, temperature=5.0))
        assert not set(drawn) <= likeliest(context, 100)


def test_the_penalty_forgets_what_the_prompt_said(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        (row,) = context.decode([Chunk(0, 0, PROMPT, is_output=True)])
        best = int(context.logits(row).argmax())
        context.clear()
        (row,) = context.decode([Chunk(0, 0, [best, *PROMPT], is_output=True)])
        expected = int(context.logits(row).argmax())
        sampler = Sampler(greedy(1, penalty=10.0), qwen.n_vocab)
        assert sampler.sample(context, row) == expected
        sampler.close()


def test_a_penalty_keeps_a_model_from_saying_one_thing_over_and_over(
    tiny_models: dict[str, LlamaModel],
) -> None:
    stuck = tiny_models["gemma3"]  # tied embeddings: it repeats the last token
    assert len(set(draw(stuck, greedy(8)))) < 3
    assert len(set(draw(stuck, greedy(8, penalty=10.0)))) == 8
