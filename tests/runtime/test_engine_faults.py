"""The engine under faults and at its end: what one request suffers, no other one feels."""

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from runtime.engine import Engine
from runtime.errors import DecodeError, EngineStopped, ModelError
from runtime.llama_backend import LlamaModel, Vector
from runtime.prefix_cache import PrefixCache
from runtime.scheduler import Scheduler
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    Event,
    Failed,
    Request,
)
from tests.runtime.conversation import prompts, request
from tests.runtime.driving import (
    SMALL,
    by_hand,
    greedy,
    make_encoder,
    open_context,
    running,
)
from tests.runtime.scripted import script_samplers

PROMPT = [5, 6, 7]
LONG = greedy(500)


@pytest.fixture(autouse=True)
def _nothing_ends_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    script_samplers(monkeypatch, [40, 41])


def fail_once(monkeypatch: pytest.MonkeyPatch, target: object, name: str, error: Exception) -> None:
    """The next call of a method raises; those after it work."""
    original = getattr(target, name)

    def fail(*_: object, **__: object) -> None:
        monkeypatch.setattr(target, name, original)
        raise error

    monkeypatch.setattr(target, name, fail)


def end_of(engine: Engine, request: Request) -> Done | Failed:
    """How a request ends; a test that waits for it in vain fails."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine.submit(request, events.put)
    while True:
        event = events.get(timeout=60)
        if isinstance(event, (Done, Failed)):
            return event


def fail_state(error: Exception) -> Callable[[Vector], Sequence[int]]:
    def on_state(_: Vector) -> list[int]:
        raise error

    return on_state


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ([], "on_state gave 0 tokens; it must give 1 to 256"),
        ([5] * (MAX_DECISION_TOKENS + 1), "on_state gave 257 tokens"),
        ([-1], "token -1: the vocabulary has"),
        ([5, 1 << 20], "token 1048576: the vocabulary has"),
    ],
)
def test_a_decision_that_cannot_be_appended_fails_its_request_only(
    qwen: LlamaModel, decision: list[int], message: str
) -> None:
    with by_hand(qwen) as bench:
        bad, good = bench.finish(
            Request(PROMPT, greedy(5), lambda _: decision), Request(PROMPT, greedy(5))
        )
        with pytest.raises(ValueError, match=message):
            raise bad.error
        assert len(good.done.tokens) == 5
        assert bench.is_empty


def test_an_error_of_the_callback_fails_its_request_only(qwen: LlamaModel) -> None:
    error = LookupError("no such flag")
    with by_hand(qwen) as bench:
        bad, good = bench.finish(
            Request(PROMPT, greedy(5), fail_state(error)), Request(PROMPT, greedy(5))
        )
        assert bad.error is error
        assert bad.states == [], "STATE is delivered only with its decision"
        assert len(good.done.tokens) == 5
        assert bench.is_empty


def test_a_batch_that_fails_takes_its_requests_along_and_the_engine_lives_on(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with by_hand(qwen, replace(SMALL, n_seq_max=2)) as bench:
        first, second = bench.start(Request(PROMPT, LONG), Request(PROMPT, LONG))
        waiting = bench.submit(Request(PROMPT, greedy(5)))
        fail_once(monkeypatch, bench.context, "decode", DecodeError(-3))
        assert bench.engine.step()
        assert isinstance(first.error, DecodeError)
        assert isinstance(second.error, DecodeError)
        while bench.engine.step():
            pass
        assert len(waiting.done.tokens) == 5
        assert bench.is_empty


def test_a_state_batch_that_llama_cpp_refuses_leaves_no_trace_in_what_follows(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make_encoder(qwen)
    asked = request(encoder, prompts(encoder)[0], greedy(1))
    with by_hand(qwen) as bench:
        expected = bench.finish_one(asked).states[0]
        client = bench.submit(asked)
        while not client.sequence.is_at_state:
            bench.engine.step()
        with monkeypatch.context() as patch:
            patch.setattr("runtime.llama_backend.C.llama_decode", lambda *_: -3)
            bench.engine.step()
        with pytest.raises(DecodeError, match="llama_decode returned -3"):
            raise client.error
        assert bench.is_empty
        again = bench.finish_one(asked)
        assert (again.states[0] == expected).all()
        assert bench.context.batches[-3].rows_with_logits == [], "embeddings are off again"


def test_a_listener_that_raises_loses_only_its_own_request(qwen: LlamaModel) -> None:
    def deaf(_: Event) -> None:
        raise ValueError("nobody listens")

    with by_hand(qwen) as bench:
        bench.engine.submit(Request(PROMPT, LONG), deaf)
        other = bench.finish_one(Request(PROMPT, greedy(30)))
        assert len(other.done.tokens) == 30
        assert bench.is_empty


def test_a_defect_fails_what_is_open_and_the_thread_lives_on(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_context(qwen) as context, Engine(context) as engine:
        fail_once(monkeypatch, context, "embedding", ZeroDivisionError("a defect"))
        with pytest.raises(ZeroDivisionError, match="a defect"):
            list(engine.run(Request(PROMPT, LONG, lambda _: [9])))
        assert list(engine.run(Request(PROMPT, greedy(3))))
        assert engine.is_running


def test_a_request_that_a_defect_keeps_out_is_told_and_the_next_is_served(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = ZeroDivisionError("a defect")
    with open_context(qwen) as context, Engine(context) as engine:
        fail_once(monkeypatch, Scheduler, "_place", error)
        assert end_of(engine, Request(PROMPT, greedy(3))) == Failed(error)
        assert isinstance(end_of(engine, Request(PROMPT, greedy(3))), Done)


def test_a_whole_reply_is_told_though_its_cells_cannot_be_kept(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_context(qwen) as context, Engine(context, max_residents=1) as engine:
        fail_once(monkeypatch, PrefixCache, "add", ZeroDivisionError("a defect"))
        assert isinstance(end_of(engine, Request(PROMPT, greedy(3))), Done)
        assert isinstance(end_of(engine, Request(PROMPT, greedy(3))), Done)


def test_one_whose_cells_cannot_be_freed_keeps_nobody_from_being_told(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_context(qwen) as context, Engine(context) as engine:
        is_ready, events = threading.Event(), [queue.SimpleQueue[Event]() for _ in range(2)]

        def break_down(_: Vector) -> list[int]:
            assert is_ready.wait(60)
            fail_once(monkeypatch, context, "forget", ZeroDivisionError("another"))
            fail_once(monkeypatch, engine, "_decide", ZeroDivisionError("a defect"))
            return [9]

        engine.submit(Request(PROMPT, LONG, break_down), events[0].put)
        engine.submit(Request([8, 9], LONG, lambda _: [9]), events[1].put)
        is_ready.set()
        for each in events:
            while not isinstance(last := each.get(timeout=60), Failed):
                pass
            assert str(last.error) == "a defect"
        assert engine.stats.num_running == engine.stats.num_waiting == 0
        assert isinstance(end_of(engine, Request(PROMPT, greedy(3))), Done)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_ends_the_thread_nobody_waits_for_it(qwen: LlamaModel) -> None:
    def leave(_: Vector) -> list[int]:
        raise SystemExit

    with open_context(qwen) as context, Engine(context) as engine:
        end = end_of(engine, Request(PROMPT, LONG, leave))
        assert isinstance(end, Failed)
        assert isinstance(end.error, EngineStopped)
        with pytest.raises(EngineStopped):
            engine.submit(Request(PROMPT), lambda _: None)


def test_an_engine_that_cannot_evaluate_anything_says_so_and_takes_nothing(
    qwen: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    with open_context(qwen) as context:
        engine = Engine(context)
        engine.submit(Request(PROMPT), events.append)
        monkeypatch.setattr("runtime.llama_backend.C.llama_decode", lambda *_: -3)
        with pytest.raises(ModelError, match=r"llama_decode returned -3.*lower PERSONA_N_CTX"):
            engine.start()
        assert not engine.is_running
        (end,) = events
        assert isinstance(end, Failed)
        assert isinstance(end.error, EngineStopped)
        with pytest.raises(EngineStopped):
            engine.submit(Request(PROMPT), events.append)


def test_close_fails_what_is_open_and_refuses_what_comes_after(qwen: LlamaModel) -> None:
    with running(qwen, replace(SMALL, n_seq_max=1)) as engine:
        events: list[list[Event]] = [[], []]
        has_begun = threading.Event()

        def listen(event: Event) -> None:
            events[0].append(event)
            has_begun.set()

        engine.submit(Request(PROMPT, greedy(1000)), listen)
        engine.submit(Request(PROMPT, greedy(1000)), events[1].append)
        assert has_begun.wait(60)
        engine.close()
        last = [each[-1] for each in events]
        assert all(isinstance(e, Failed) and isinstance(e.error, EngineStopped) for e in last)
        with pytest.raises(EngineStopped):
            engine.submit(Request(PROMPT), events[0].append)
        assert not engine.is_running


def test_close_fails_what_waits_even_when_the_thread_never_ran(qwen: LlamaModel) -> None:
    with by_hand(qwen) as bench:
        client = bench.submit(Request(PROMPT))
        bench.engine.close()
        assert isinstance(client.error, EngineStopped)
        assert bench.is_empty


def test_to_close_twice_is_harmless(qwen: LlamaModel) -> None:
    with running(qwen) as engine:
        engine.close()
        engine.close()
        assert not engine.is_running


def test_requests_are_taken_before_the_thread_starts(qwen: LlamaModel) -> None:
    with open_context(qwen) as context:
        engine, is_over = Engine(context), threading.Event()
        engine.submit(Request(PROMPT, greedy(1)), lambda _: is_over.set())
        with engine:
            assert is_over.wait(60)
