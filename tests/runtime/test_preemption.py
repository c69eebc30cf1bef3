"""Too few KV cells for all who speak: the youngest waits, and says the same as if it had not."""

from dataclasses import replace

import pytest

from runtime.llama_backend import LlamaModel
from runtime.sampling import SamplingParams
from runtime.sequence import Request
from tests.runtime.driving import EXACT, by_hand, greedy

SMALL_CACHE = replace(EXACT, n_ctx=768)
NUM_REPLY = 220


def requests(sampling: SamplingParams) -> list[Request]:
    """Three prompts of 60 tokens that begin differently."""
    prompts = [[20 + 3 * who + at % 2 for at in range(60)] for who in range(3)]
    return [Request(prompt, sampling, lambda _: [40, 41, 42]) for prompt in prompts]


@pytest.fixture(params=[greedy(NUM_REPLY), SamplingParams(0.8, seed=7, max_tokens=NUM_REPLY)])
def sampling(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SamplingParams:
    for question in ("is_end", "is_control"):  # replies are as long as they may be
        monkeypatch.setattr(LlamaModel, question, lambda *_: False)
    params: SamplingParams = request.param
    return params


def test_replies_that_were_interrupted_are_those_of_a_large_cache(
    tiny: LlamaModel, sampling: SamplingParams
) -> None:
    asked = requests(sampling)
    with by_hand(tiny, EXACT) as bench:
        expected = [bench.finish_one(request).done.tokens for request in asked]
    with by_hand(tiny, SMALL_CACHE, max_residents=1) as bench:
        clients = bench.finish(*asked)
        assert bench.engine.stats.num_preempted >= 1
    assert [client.done.tokens for client in clients] == expected
    assert all(len(tokens) == NUM_REPLY for tokens in expected)
    assert [len(client.states) for client in clients] == [1, 1, 1], "nothing is told twice"


def test_one_that_waits_for_its_cells_again_can_be_cancelled(
    tiny: LlamaModel, sampling: SamplingParams
) -> None:
    with by_hand(tiny, SMALL_CACHE) as bench:
        clients = [bench.submit(request) for request in requests(sampling)]
        while not bench.engine.stats.num_preempted:
            assert bench.engine.step()
        (waiting,) = [client for client in clients if client.sequence.seq_id is None]
        bench.engine.cancel(waiting.sequence)
        assert bench.engine.step()
        assert waiting.done.finish_reason == "cancelled"
        assert len(waiting.done.tokens) > 0
        while bench.engine.step():
            pass
        assert all(client.is_over for client in clients)
        assert bench.is_empty


def test_two_who_begin_alike_at_once_evaluate_it_once(tiny: LlamaModel) -> None:
    prompts = [[5] * 100 + [7 + who] * 10 for who in range(3)]
    with by_hand(tiny, EXACT) as bench:
        alone = [bench.finish_one(Request(prompt, greedy(6))).done.tokens for prompt in prompts]
    with by_hand(tiny, EXACT) as bench:
        clients = bench.finish(*(Request(prompt, greedy(6)) for prompt in prompts))
        num_evaluated = sum(batch.num_tokens for batch in bench.context.batches)
    assert [client.done.tokens for client in clients] == alone
    num_replied = sum(len(tokens) for tokens in alone)
    assert num_evaluated <= 100 + 3 * 10 + num_replied + 2 * 16
