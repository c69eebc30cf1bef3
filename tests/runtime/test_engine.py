"""Requests come, wait, end early and leave: nothing of them stays behind."""

import time
from dataclasses import replace

import pytest

from runtime.errors import Overloaded, PromptTooLong
from runtime.llama_backend import LlamaModel, Vector
from runtime.sequence import (
    EngineSequence,
    FinishReason,
    Request,
)
from tests.runtime.conversation import prompts, request
from tests.runtime.driving import (
    SMALL,
    Bench,
    by_hand,
    greedy,
    make_encoder,
)
from tests.runtime.scripted import script_samplers

PROMPT = [5, 6, 7]
LONG = greedy(500)


@pytest.fixture(autouse=True)
def _nothing_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    script_samplers(monkeypatch, [40, 41])


def test_an_idle_engine_has_nothing_to_do(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        assert bench.engine.step() is False
        assert bench.is_empty


def test_a_finished_request_leaves_nothing_behind(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    with by_hand(qwen) as bench:
        bench.finish(*(request(encoder, prompt) for prompt in prompts(encoder) * 3))
        assert bench.is_empty


def test_every_sampler_is_closed_however_its_request_ends(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    still_open = script_samplers(monkeypatch, [40, 41])
    with by_hand(qwen) as bench:
        cancelled, _ = bench.start(Request(PROMPT, LONG), Request(PROMPT, greedy(9)))
        assert len(still_open) == 2
        bench.engine.cancel(cancelled.sequence)
        bench.finish(Request(PROMPT, LONG, lambda _: []), Request(PROMPT, LONG, deadline=0.0))
        assert still_open == []


def test_cancel_frees_a_running_request_within_one_step(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        (client,) = bench.start(Request(PROMPT, LONG))
        assert not bench.is_empty
        bench.engine.cancel(client.sequence)
        bench.engine.step()
        assert bench.is_empty
        assert client.done.finish_reason is FinishReason.CANCELLED


def test_cancel_frees_a_request_in_the_middle_of_its_prompt(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        client = bench.submit(Request([5] * 300, LONG))
        bench.engine.step()
        assert bench.context.num_cells(0) == SMALL.n_batch
        bench.engine.cancel(client.sequence)
        bench.engine.step()
        assert bench.is_empty
        assert client.done.tokens == ()


def test_cancel_frees_a_waiting_request_within_one_step(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        bench.start(Request(PROMPT, LONG))
        waiting = bench.submit(Request(PROMPT, LONG))
        bench.engine.cancel(waiting.sequence)
        bench.engine.step()
        assert waiting.done.finish_reason is FinishReason.CANCELLED
        assert bench.engine.stats.num_waiting == 0


def test_the_others_go_on_when_one_is_cancelled(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        first, second = bench.start(Request(PROMPT, greedy(20)), Request(PROMPT, greedy(20)))
        bench.engine.cancel(first.sequence)
        while bench.engine.step():
            pass
        assert len(second.done.tokens) == 20


def test_to_cancel_what_is_over_changes_nothing(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        client = bench.finish_one(Request(PROMPT, greedy(3)))
        bench.engine.cancel(client.sequence)
        bench.engine.step()
        assert client.done.finish_reason is FinishReason.LENGTH


def test_a_callback_may_cancel_its_own_request(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:

        def on_state(_: Vector) -> list[int]:
            bench.engine.cancel(client.sequence)
            return [9]

        client = bench.submit(Request(PROMPT, LONG, on_state))
        while bench.engine.step():
            pass
        assert client.done.finish_reason is FinishReason.CANCELLED
        assert client.done.tokens == ()


def test_a_deadline_ends_a_running_request_with_what_it_has(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        (client,) = bench.start(Request(PROMPT, LONG))
        num_tokens = len(client.sequence.reply)
        client.sequence.request = replace(client.request, deadline=0.0)
        bench.engine.step()
        assert client.done.finish_reason is FinishReason.DEADLINE
        assert len(client.done.tokens) == num_tokens > 0
        assert bench.is_empty


def test_a_deadline_ends_a_waiting_request_before_it_costs_anything(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        client = bench.finish_one(Request(PROMPT, LONG, deadline=0.0))
        assert client.done.finish_reason is FinishReason.DEADLINE
        assert client.done.timings.queue is None
        assert bench.context.batches == []
        assert bench.is_empty


def test_a_full_queue_is_overloaded_at_once(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1), max_waiting=2) as bench:
        bench.start(Request(PROMPT, LONG))
        bench.submit(Request(PROMPT, LONG))
        bench.submit(Request(PROMPT, LONG))
        with pytest.raises(Overloaded):
            bench.submit(Request(PROMPT, LONG))
        assert bench.engine.stats.num_waiting == 2


def test_a_prompt_that_can_never_fit_is_refused_at_once(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench, pytest.raises(PromptTooLong):
        bench.submit(Request([5] * SMALL.n_ctx, greedy(1)))


@pytest.mark.parametrize("prompt", [[], [5, -1], [5, 1 << 20]])
def test_a_prompt_that_llama_cpp_would_refuse_is_refused_at_once(
    qwen: LlamaModel, prompt: list[int]
) -> None:
    with by_hand(qwen) as bench:
        with pytest.raises(ValueError, match=r"prompt is empty|token \S+: the vocabulary has"):
            bench.submit(Request(prompt))
        assert bench.is_empty


def test_the_cache_can_be_filled_to_the_last_cell(qwen: LlamaModel) -> None:
    config = replace(SMALL, n_ctx=512)
    with by_hand(qwen, config) as bench:
        full = [Request([5] * (128 - 28), greedy(28)) for _ in range(8)]
        clients = bench.finish(*full)
        assert [len(client.done.tokens) for client in clients] == [28] * 8
        assert bench.is_empty


SECONDS = 3_600.0
"""So long that what a test itself takes makes no difference."""


def teach(bench: Bench, seconds: float) -> None:
    """Let the engine believe that requests take so long, to the state and in all."""
    sequence = EngineSequence(Request(PROMPT, LONG), lambda _: None)
    start = sequence.watch.submitted
    sequence.watch.marks = {
        "queue": start,
        "first_token": start + seconds,
        "total": start + seconds,
    }
    bench.engine.pace.observe(sequence)


def test_one_that_would_miss_its_deadline_behind_others_is_refused_at_once(
    qwen: LlamaModel,
) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        teach(bench, SECONDS)
        bench.start(Request(PROMPT, LONG))
        bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + 2.5 * SECONDS))
        with pytest.raises(Overloaded, match="2 of those before it must end first"):
            bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + 2.5 * SECONDS))


def test_where_cells_are_short_fewer_run_and_those_that_wait_know_it(qwen: LlamaModel) -> None:
    long, another = [5, 6, 7] * 400, [8, 9, 10] * 400
    with by_hand(qwen) as bench:
        teach(bench, SECONDS)
        bench.start(Request(long, LONG))
        first = bench.submit(Request(another, LONG, deadline=time.monotonic() + 2.5 * SECONDS))
        bench.engine.step()
        assert first.sequence.seq_id is None, "three ids are free, but no cells"
        with pytest.raises(Overloaded, match="2 of those before it must end first"):
            bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + 2.5 * SECONDS))


def test_one_too_long_for_the_cache_is_told_so_however_many_wait(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        teach(bench, SECONDS)
        bench.start(Request(PROMPT, LONG))
        with pytest.raises(PromptTooLong):
            bench.submit(Request([5] * SMALL.n_ctx, LONG, deadline=time.monotonic()))


def test_one_that_waits_in_vain_is_answered_before_its_deadline(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        bench.start(Request(PROMPT, LONG))
        client = bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + SECONDS))
        teach(bench, 2 * SECONDS)
        bench.engine.step()
        assert client.done.finish_reason is FinishReason.DEADLINE


def test_a_place_that_becomes_free_is_tried_however_slow_others_were(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        (running,) = bench.start(Request(PROMPT, LONG))
        waits = bench.submit(Request(PROMPT, greedy(2), deadline=time.monotonic() + SECONDS))
        teach(bench, 2 * SECONDS)
        bench.engine.cancel(running.sequence)
        while bench.engine.step():
            pass
        assert waits.done.finish_reason is FinishReason.LENGTH


def test_an_idle_engine_tries_whatever_comes(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        teach(bench, 2 * SECONDS)
        client = bench.finish_one(Request(PROMPT, greedy(2), deadline=time.monotonic() + SECONDS))
        assert client.done.finish_reason is FinishReason.LENGTH


def test_what_was_cancelled_says_nothing_of_how_long_others_take(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        (client,) = bench.start(Request(PROMPT, LONG))
        bench.engine.cancel(client.sequence)
        bench.engine.step()
        bench.start(Request(PROMPT, LONG))
        client = bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + 1e-9))
        assert not client.is_over, "taken, to wait"
