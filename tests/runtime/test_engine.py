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


def test_one_that_would_miss_its_deadline_behind_others_is_refused_at_once(
    qwen: LlamaModel,
) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        bench.finish(Request(PROMPT, greedy(9)))
        bench.start(Request(PROMPT, LONG))
        with pytest.raises(Overloaded, match="1 of those before it must end first"):
            bench.submit(Request(PROMPT, LONG, deadline=time.monotonic()))


def test_one_that_waits_in_vain_is_answered_before_its_deadline(qwen: LlamaModel) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=1)) as bench:
        bench.start(Request(PROMPT, LONG))
        client = bench.submit(Request(PROMPT, LONG, deadline=time.monotonic() + 3_600))
        slow = EngineSequence(client.request, client.events.append)
        start = slow.watch.submitted
        slow.watch.marks = {"queue": start, "first_token": start + 7_200, "total": start + 7_300}
        bench.engine.pace.observe(slow)
        bench.engine.step()
        assert client.done.finish_reason is FinishReason.DEADLINE
