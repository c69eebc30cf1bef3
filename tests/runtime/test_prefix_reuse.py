"""What finished requests leave in the KV cache is used again, and changes nothing that is said."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from runtime.encoder import PromptEncoder
from runtime.llama_backend import Chunk, LlamaModel, Vector
from runtime.prompt import End
from runtime.sequence import FinishReason, Request
from tests.runtime.conversation import LINES, decision, prompts, request, turn_segments
from tests.runtime.driving import (
    EXACT,
    SMALL,
    Bench,
    Client,
    by_hand,
    greedy,
    make_encoder,
    open_context,
)
from tests.runtime.reference import plain_greedy, prefill

NUM_REPLY = 6


def converse(bench: Bench, encoder: PromptEncoder) -> list[Client]:
    """A conversation whose transcript is appended to, turn after turn."""
    clients: list[Client] = []
    prompt = prompts(encoder)[0]
    for number in range(len(LINES)):
        clients.append(bench.finish_one(request(encoder, prompt, greedy(NUM_REPLY))))
        assert clients[-1].done.tokens, "silence says nothing of what was read"
        said = [*decision(encoder), *clients[-1].done.tokens, *encoder.encode([End()])]
        if number + 1 < len(LINES):
            opened = encoder.encode(turn_segments(number + 1))
            prompt = [*prompt, *said, *opened[len(encoder.encode(turn_segments(number))) :]]
    return clients


@pytest.fixture
def bench(tiny: LlamaModel) -> Iterator[Bench]:
    with by_hand(tiny, EXACT, max_residents=2) as bench:
        yield bench


def test_a_turn_evaluates_its_own_words_and_at_most_one_token_of_the_last_reply(
    bench: Bench,
) -> None:
    """A token that was sampled last, at the limit of a reply, has not been evaluated."""
    encoder = make_encoder(bench.context.model)
    clients = converse(bench, encoder)
    for last, client in pairwise(clients):
        known = [*last.request.prompt, *decision(encoder), *last.done.tokens]
        assert list(client.request.prompt[: len(known)]) == known
        is_cut = last.done.finish_reason is FinishReason.LENGTH
        assert client.done.usage.cached_tokens == len(known) - is_cut
    assert bench.engine.stats.num_residents == 1


def test_replies_and_states_after_a_kept_transcript_are_those_of_a_cold_run(
    bench: Bench,
) -> None:
    model = bench.context.model
    encoder = make_encoder(model)
    for client in converse(bench, encoder):
        prompt = list(client.request.prompt)
        expected = plain_greedy(model, [*prompt, *decision(encoder)], NUM_REPLY)
        assert list(client.done.tokens) == expected
        cold = cold_state(model, prompt)
        np.testing.assert_allclose(client.states[0], cold, rtol=1e-3, atol=2e-3)


def cold_state(model: LlamaModel, prompt: list[int]) -> Vector:
    with open_context(model, EXACT) as context:
        prefill(context, prompt[:-1])
        chunk = Chunk(0, len(prompt) - 1, prompt[-1:], is_output=True)
        (row,) = context.decode([chunk], embeddings=True)
        return context.embedding(row)


def test_cached_equals_cold_bit_for_bit_where_the_batches_are_the_same(model: LlamaModel) -> None:
    """The cold run is given what the engine evaluated, batch by batch, and nothing else."""
    encoder, config = make_encoder(model), replace(SMALL, n_batch=512)
    with by_hand(model, config, max_residents=1) as bench:
        first, second, *_ = converse(bench, encoder)
        batches = bench.context.batches
    with open_context(model, config) as context:
        states = []
        for batch in batches:
            rows = context.decode(batch.chunks, embeddings=batch.embeddings)
            states += [context.embedding(row) for row in rows if batch.embeddings]
    np.testing.assert_array_equal(first.states[0], states[0])
    np.testing.assert_array_equal(second.states[0], states[1])


def test_two_players_share_the_npcs_block_and_neither_disturbs_the_other(bench: Bench) -> None:
    model = bench.context.model
    encoder = make_encoder(model)
    head = prompts(encoder)[0]
    tails = [encoder.encode([text]) for text in ("first player", "두 번째 손님")]
    players = [[*head[:-2], *tail, head[-1]] for tail in tails]
    for prompt in (*players, *players):
        client = bench.finish_one(request(encoder, prompt, greedy(NUM_REPLY)))
        expected = plain_greedy(model, [*prompt, *decision(encoder)], NUM_REPLY)
        assert list(client.done.tokens) == expected != []
    assert client.done.usage.cached_tokens == len(players[1]) - 1
    assert bench.engine.stats.num_residents == 2
    cells = bench.engine.stats.num_resident_cells
    assert cells < sum(len(p) + len(decision(encoder)) + NUM_REPLY for p in players)


def test_what_was_evaluated_of_a_cancelled_request_is_used_too(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    prompt = prompts(encoder)[3]
    with by_hand(qwen, max_residents=1) as bench:
        client = bench.submit(request(encoder, prompt))
        bench.engine.step()
        bench.engine.cancel(client.sequence)
        while bench.engine.step():
            pass
        again = bench.finish_one(request(encoder, prompt))
    assert again.done.usage.cached_tokens == SMALL.n_batch


def test_a_request_that_failed_leaves_nothing(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    prompt = prompts(encoder)[0]
    with by_hand(qwen, max_residents=1) as bench:
        failing = replace(request(encoder, prompt), on_state=lambda _: [])
        assert isinstance(bench.finish_one(failing).error, ValueError)
        assert bench.engine.stats.num_residents == 0
        assert bench.is_empty


def test_residents_make_way_for_a_request_that_needs_the_room(qwen: LlamaModel) -> None:
    encoder, config = make_encoder(qwen), replace(EXACT, n_ctx=640)
    first, *_, last = prompts(encoder)
    with by_hand(qwen, config, max_residents=2) as bench:
        bench.finish_one(request(encoder, first, greedy(NUM_REPLY)))
        tokens = (encoder.encode(["hello 안녕 gold"]) * 80)[: 640 - 256 - NUM_REPLY - 1]
        large = bench.finish_one(request(encoder, [*tokens, last[-1]], greedy(NUM_REPLY)))
        assert len(large.done.tokens) > 0
        again = bench.finish_one(request(encoder, first, greedy(NUM_REPLY)))
        expected = plain_greedy(qwen, [*first, *decision(encoder)], NUM_REPLY)
        assert list(again.done.tokens) == expected


def test_a_beginning_that_a_sliding_window_gave_away_is_evaluated_again(
    tiny_models: dict[str, LlamaModel],
) -> None:
    """llama.cpp lends the cells that their own sequence no longer sees to whoever comes next."""
    model = tiny_models["gemma3"]
    encoder = make_encoder(model)
    prompt = prompts(encoder)[3]
    alike = [*prompt[:100], *encoder.encode(["quite another thing"]), prompt[-1]]
    small, large = (Request([*range(start, 320)], greedy(1)) for start in (300, 20))
    with by_hand(model, EXACT, max_residents=2) as bench:
        bench.finish_one(small)
        client = bench.submit(request(encoder, prompt, greedy(NUM_REPLY)))
        bench.engine.step()
        seq_id = client.sequence.seq_id
        assert seq_id is not None
        bench.finish_one(replace(small, prompt=small.prompt[1:]))  # the first small one makes way
        assert bench.context.holds(seq_id, 100)
        bench.finish_one(replace(large, on_state=lambda _: []))  # into the cells it left, and on
        assert not bench.context.holds(seq_id, 100)
        assert bench.context.holds(seq_id, bench.context.num_cells(seq_id)), "its end is there"
        client = bench.finish_one(request(encoder, alike, greedy(NUM_REPLY)))
    cold = plain_greedy(model, [*alike, *decision(encoder)], NUM_REPLY)
    assert list(client.done.tokens) == cold != []
    assert client.done.usage.cached_tokens == 0


def test_a_conversation_goes_on_where_only_its_end_is_left(
    tiny_models: dict[str, LlamaModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have been given every cell of it that a sliding window no longer sees."""
    model = tiny_models["gemma3"]
    for question in ("is_end", "is_control"):
        monkeypatch.setattr(LlamaModel, question, lambda *_: False)
    config = replace(EXACT, n_ctx=1024, n_seq_max=14)
    with by_hand(model, config, max_residents=12) as bench:
        prompt = [30 + at % 7 for at in range(300)]
        is_bare = False
        for number in range(12):
            if number % 2 == 0:
                client = bench.finish_one(Request([*prompt], greedy(NUM_REPLY)))
                assert list(client.done.tokens) == plain_greedy(model, prompt, NUM_REPLY)
                if number:
                    assert client.done.usage.cached_tokens == len(prompt) - 2
                prompt += [*client.done.tokens, 50]
            other = [20 + number, *(40 + at * number % 9 for at in range(120))]
            bench.finish_one(Request(other, greedy(40)))
            size = len(prompt) - 2
            (seq_id,) = [s for s in range(14) if bench.context.num_cells(s) == size]
            is_bare |= not bench.context.holds(seq_id, size - 1)
        assert is_bare
