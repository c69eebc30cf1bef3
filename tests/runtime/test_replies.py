"""What a reply is made of: the decision, then tokens, until one of five things ends it."""

from dataclasses import replace

import pytest

from runtime.llama_backend import LlamaModel, Vector
from runtime.prompt import Special
from runtime.sampling import SamplingParams
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    FinishReason,
    Request,
    State,
    Token,
    Usage,
)
from tests.runtime.conversation import decision, prompts, request
from tests.runtime.driving import (
    EXACT,
    Client,
    by_hand,
    greedy,
    make_encoder,
    running,
)
from tests.runtime.reference import plain_greedy
from tests.runtime.scripted import script_samplers


def drawn_reply(model: LlamaModel, sampling: SamplingParams) -> tuple[int, ...]:
    """Tokens of a reply to the first turn, which may end before it begins."""
    encoder = make_encoder(model)
    with by_hand(model) as bench:
        return bench.finish_one(request(encoder, prompts(encoder)[0], sampling)).done.tokens


def reply(model: LlamaModel, sampling: SamplingParams) -> tuple[int, ...]:
    """Tokens of a reply to the first turn, the same each time."""
    tokens = drawn_reply(model, sampling)
    assert tokens, "silence is like silence whatever the sampling"
    return tokens


@pytest.mark.parametrize("penalty", [1.0, 1.3, 5.0])
def test_greedy_tokens_are_those_of_a_plain_loop(tiny: LlamaModel, penalty: float) -> None:
    encoder = make_encoder(tiny)
    asked = request(encoder, prompts(encoder)[1], greedy(24, penalty))
    expected = plain_greedy(tiny, [*asked.prompt, *decision(encoder)], 24, penalty)
    with by_hand(tiny, EXACT) as bench:
        assert list(bench.finish_one(asked).done.tokens) == expected
    assert penalty == 1 or len(set(expected)) > 3, "one token over and over says little"


def test_a_prompt_without_state_is_answered_as_a_plain_loop_would(tiny: LlamaModel) -> None:
    prompt = [*prompts(make_encoder(tiny))[0][:-1], 300]
    with by_hand(tiny, EXACT) as bench:
        client = bench.finish_one(Request(prompt, greedy(24)))
    assert list(client.done.tokens) == plain_greedy(tiny, prompt, 24)


def test_greedy_tokens_are_the_same_in_company(tiny: LlamaModel) -> None:
    encoder = make_encoder(tiny)
    requests = [request(encoder, prompt, greedy(24, 1.3)) for prompt in prompts(encoder) * 2]
    with by_hand(tiny, replace(EXACT, n_ctx=4096, n_batch=512)) as bench:
        alone = [bench.finish_one(each).done.tokens for each in requests]
        assert [client.done.tokens for client in bench.finish(*requests)] == alone
        assert any(len(batch.chunks) == 4 for batch in bench.context.batches)
    assert len(set(alone)) > 1


def test_the_events_are_state_then_text_then_done(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    with running(qwen) as engine:
        events = list(engine.run(request(encoder, prompts(encoder)[0])))
    assert isinstance(events[0], State)
    assert events[0].vector.shape == (qwen.n_embd,)
    assert all(isinstance(event, Token) and event.text for event in events[1:-1])
    assert isinstance(events[-1], Done)


def test_the_callback_gets_the_very_vector_that_is_delivered(qwen: LlamaModel) -> None:
    encoder, seen = make_encoder(qwen), list[Vector]()

    def on_state(vector: Vector) -> list[int]:
        seen.append(vector)
        return decision(encoder)

    with by_hand(qwen) as bench:
        client = bench.finish_one(Request(prompts(encoder)[0], greedy(2), on_state))
    assert len(seen) == 1
    assert client.states[0] is seen[0]


def test_the_decision_is_read_before_the_first_token_is_drawn(tiny: LlamaModel) -> None:
    encoder = make_encoder(tiny)
    prompt = prompts(encoder)[0]
    other = encoder.encode(["help the sword", Special.NPC])
    with by_hand(tiny) as bench:
        bench.finish_one(Request(prompt, greedy(1), lambda _: other))
        logits = bench.context.batches[-1].logits[0]
        bench.finish_one(request(encoder, prompt, greedy(1)))
        assert abs(bench.context.batches[-1].logits[0] - logits).max() > 1e-3
        assert list(bench.context.batches[-1].chunks[0].tokens) == decision(encoder)


def test_usage_counts_the_decision_as_prompt_and_leaves_out_the_end(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(qwen)
    prompt = prompts(encoder)[0]
    script_samplers(monkeypatch, [40, 41, qwen.eos])
    with by_hand(qwen) as bench:
        done = bench.finish_one(request(encoder, prompt)).done
    assert done.tokens == (40, 41)
    assert done.usage == Usage(len(prompt) + len(decision(encoder)), 0, 2)


@pytest.mark.parametrize("ending", ["end of sequence", *Special])
def test_the_end_token_and_every_special_token_end_the_reply_unseen(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    found = tiny.eos if ending == "end of sequence" else tiny.find_token(ending)
    assert found is not None
    script_samplers(monkeypatch, [*tiny.tokenize("help"), found, *tiny.tokenize("me")])
    client = scripted_reply(tiny, greedy(50))
    assert client.text == "help"
    assert client.done.finish_reason is FinishReason.STOP


def test_a_stop_string_ends_the_reply_and_is_not_shown(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "안녕하세요 <END> 감사합니다"
    script_samplers(monkeypatch, tiny.tokenize(text))
    client = scripted_reply(tiny, greedy(200, stop=("<END>",)))
    assert client.text == "안녕하세요 "
    assert client.done.finish_reason is FinishReason.STOP
    assert len(client.done.tokens) < len(tiny.tokenize(text))


def test_the_reply_ends_at_max_tokens(qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    script_samplers(monkeypatch, qwen.tokenize("안녕하세요 안녕하세요"))
    done = scripted_reply(qwen, greedy(3)).done
    assert done.finish_reason is FinishReason.LENGTH
    assert len(done.tokens) == done.usage.completion_tokens == 3


def test_text_held_back_for_a_stop_string_is_shown_when_the_reply_ends(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_samplers(monkeypatch, [*qwen.tokenize("help <EN"), qwen.eos])
    assert scripted_reply(qwen, greedy(50, stop=("<END>",))).text == "help <EN"


def test_a_syllable_of_several_tokens_is_shown_whole(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = tiny.tokenize("뷁")
    assert len(tokens) == 3
    script_samplers(monkeypatch, [*tokens, *tokens[:2], tiny.eos])
    client = scripted_reply(tiny, greedy(50))
    assert [event.text for event in client.events if isinstance(event, Token)] == ["뷁"]


def scripted_reply(model: LlamaModel, sampling: SamplingParams) -> Client:
    """A request whose tokens the script draws."""
    encoder = make_encoder(model)
    with by_hand(model) as bench:
        return bench.finish_one(request(encoder, prompts(encoder)[0], sampling))


def test_the_longest_decision_is_taken(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    longest = [5] * MAX_DECISION_TOKENS
    with by_hand(qwen) as bench:
        client = bench.finish_one(Request(prompts(encoder)[0], greedy(2), lambda _: longest))
        assert client.done.usage.prompt_tokens == len(client.request.prompt) + len(longest)
        assert bench.is_empty


def test_a_prompt_of_state_alone_has_all_its_timings(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    with by_hand(qwen) as bench:
        timings = bench.finish_one(request(encoder, [encoder.state_id])).done.timings
    marks = (timings.queue, timings.prefill, timings.state, timings.first_token, timings.total)
    reached = [mark for mark in marks if mark is not None]
    assert len(reached) == 5
    assert reached == sorted(reached)


def test_the_prefill_is_over_when_all_before_state_is_evaluated(qwen: LlamaModel) -> None:
    encoder = make_encoder(qwen)
    with by_hand(qwen) as bench:
        sequence = bench.submit(request(encoder, prompts(encoder)[0])).sequence
        while not sequence.is_at_state:
            assert "prefill" not in sequence.watch.marks
            bench.engine.step()
        assert "prefill" in sequence.watch.marks


def test_without_state_there_is_no_state_timing(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        timings = bench.finish_one(Request([5, 6], greedy(2))).done.timings
    assert timings.state is None
    assert timings.prefill is not None


def sampled(seed: int | None, temperature: float = 1.0) -> SamplingParams:
    return SamplingParams(temperature, seed=seed, max_tokens=24)


def test_the_same_seed_gives_the_same_tokens(tiny: LlamaModel) -> None:
    assert reply(tiny, sampled(7)) == reply(tiny, sampled(7))


def test_different_seeds_give_different_tokens(tiny: LlamaModel) -> None:
    assert len({reply(tiny, sampled(seed)) for seed in range(4)}) > 1


def test_without_a_seed_one_is_drawn(tiny: LlamaModel) -> None:
    assert len({drawn_reply(tiny, sampled(None, temperature=5)) for _ in range(4)}) > 1


def test_greedy_ignores_the_seed(tiny: LlamaModel) -> None:
    assert reply(tiny, sampled(1, temperature=0)) == reply(tiny, sampled(2, temperature=0))


def test_top_k_of_one_is_greedy(tiny: LlamaModel) -> None:
    single = SamplingParams(1.5, top_k=1, repetition_penalty=1.0, max_tokens=12)
    assert reply(tiny, single) == reply(tiny, greedy(12))
