"""One pass gives what two passes give: the STATE vector and the logits of the first token."""

from dataclasses import replace

import numpy as np
import pytest

from runtime.context_config import ContextConfig
from runtime.llama_backend import LlamaModel, Vector
from runtime.sequence import Request
from tests.runtime.conversation import decision, prompts, request
from tests.runtime.driving import SMALL, Bench, by_hand, greedy, make_encoder
from tests.runtime.heads_agreement import MAX_SHARE_OF_A_TURN, shares_of_a_turn
from tests.runtime.reference import two_pass
from tests.runtime.scripted import script_samplers

WHOLE = replace(SMALL, n_batch=512)


def run_turn(bench: Bench, model: LlamaModel, number: int, max_tokens: int = 1) -> Vector:
    """Runs a turn of the conversation alone; its STATE vector."""
    encoder = make_encoder(model)
    prompt = prompts(encoder)[number]
    (state,) = bench.finish_one(request(encoder, prompt, greedy(max_tokens))).states
    return state


@pytest.mark.parametrize("n_batch", [512, 48])
def test_state_and_first_logits_equal_those_of_two_passes_bit_for_bit(
    model: LlamaModel, n_batch: int
) -> None:
    config, encoder = replace(SMALL, n_batch=n_batch), make_encoder(model)
    prompt = prompts(encoder)[2]
    state, logits = two_pass(model, config, prompt, decision(encoder))
    with by_hand(model, config) as bench:
        np.testing.assert_array_equal(run_turn(bench, model, 2), state)
        np.testing.assert_array_equal(bench.context.batches[-1].logits[0], logits)


def test_logits_are_computed_for_state_and_the_last_token_before_the_reply_alone(
    model: LlamaModel,
) -> None:
    encoder = make_encoder(model)
    with by_hand(model) as bench:
        run_turn(bench, model, 2)
        batches = bench.context.batches
        assert bench.context.num_outputs == 2
        assert len(batches) > 3, "the prompt is longer than a batch"
        assert [batch.rows_with_logits for batch in batches[:-2]] == [[]] * (len(batches) - 2)
        assert batches[-2].rows_with_logits == [0]
        assert batches[-1].rows_with_logits == [len(decision(encoder)) - 1]


def test_without_state_logits_are_computed_for_the_last_token_alone(qwen: LlamaModel) -> None:
    prompt = prompts(make_encoder(qwen))[2]
    with by_hand(qwen) as bench:
        client = bench.finish_one(Request(prompt, greedy(1)))
        assert bench.context.num_outputs == 1
        assert client.states == []


def test_embeddings_are_on_for_state_and_for_nothing_else_of_the_prompt(model: LlamaModel) -> None:
    encoder = make_encoder(model)
    with by_hand(model) as bench:
        run_turn(bench, model, 1, max_tokens=3)
        tokens = [b.chunks[0].tokens for b in bench.context.batches if b.embeddings]
    assert tokens == [[encoder.state_id]]


def test_no_token_is_evaluated_twice_and_none_is_left_out(model: LlamaModel) -> None:
    encoder = make_encoder(model)
    with by_hand(model) as bench:
        client = bench.finish_one(request(encoder, prompts(encoder)[1]))
        chunks = [batch.chunks[0] for batch in bench.context.batches]
        evaluated = [token for chunk in chunks for token in chunk.tokens]
        assert [chunk.position for chunk in chunks] == list(
            np.cumsum([0, *(len(chunk.tokens) for chunk in chunks[:-1])])
        )
    known = [*client.request.prompt, *decision(encoder), *client.done.tokens]
    assert evaluated in (known, known[:-1]), "the last token of a reply need not be"


def states_alone(model: LlamaModel, config: ContextConfig) -> list[Vector]:
    """STATE of each turn, one after another."""
    with by_hand(model, config) as bench:
        return [run_turn(bench, model, number) for number in range(4)]


def test_riding_with_others_moves_state_by_less_than_a_quarter_of_a_turn(
    model: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(model)
    script_samplers(monkeypatch, [40])  # nobody stops before the last is at her state
    with by_hand(model, WHOLE) as bench:
        clients = bench.finish(*(request(encoder, prompt) for prompt in prompts(encoder)))
        assert any(b.embeddings and b.num_tokens > 1 for b in bench.context.batches)
    together = [client.states[0] for client in clients]
    alone = states_alone(model, WHOLE)
    assert max(shares_of_a_turn(alone, together)) <= MAX_SHARE_OF_A_TURN


def test_prefill_in_small_chunks_moves_state_by_less_than_a_quarter_of_a_turn(
    model: LlamaModel,
) -> None:
    chunked = states_alone(model, replace(SMALL, n_batch=24))
    assert max(shares_of_a_turn(states_alone(model, WHOLE), chunked)) <= MAX_SHARE_OF_A_TURN


def test_a_sequence_that_ended_leaves_no_trace_in_the_next(model: LlamaModel) -> None:
    with by_hand(model, WHOLE) as bench:
        first = run_turn(bench, model, 0)
        run_turn(bench, model, 1)
        np.testing.assert_array_equal(run_turn(bench, model, 0), first)
