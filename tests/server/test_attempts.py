"""A line that is asked for again: what its tokens and times are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import msgspec
import pytest

from heads.agreement import MAX_ATTEMPTS, Agreement
from rag.documents import Document
from rag.world import World
from runtime.engine import Engine
from runtime.errors import Overloaded
from runtime.sequence import Done, Event, FinishReason, Request, Timings, Usage
from server.attempts import timings_of, usage_of
from server.schemas import TimingsMeta
from server.service import Service
from server.sessions import Sessions
from tests.server.serving import Spy, altered, ask_body, client_of
from tests.server.small_world import DOCUMENTS
from tests.train.responses import responses_of_each_kind as turns
from train.fit_agreement import fit_agreement

Say: TypeAlias = Callable[..., None]

SLURS: list[dict[str, Any]] = [
    {"id": "slurs", "type": "forbidden_trigger_list", "triggers": {"keywords": ["scum"]}},
    {"id": "slurs-meta", "type": "trigger_meta", "trigger": "slurs"},
]


@pytest.fixture
def refusing(tiny_service: Service) -> Iterator[httpx.Client]:
    """A server whose NPCs never say "scum"."""
    world = World(msgspec.convert(document, Document) for document in [*DOCUMENTS, *SLURS])
    with client_of(altered(tiny_service, world=world, sessions=Sessions())) as client:
        yield client


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    return Spy.on(monkeypatch)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> Say:
    """Have every token of an attempt say the same."""

    def say(*pieces: bytes) -> None:
        monkeypatch.setattr(
            "runtime.llama_backend.LlamaModel.piece",
            lambda _, token: pieces[len(spy.requests) - 1],
        )

    return say


@dataclass
class Contrary:
    """A server, and a line that contradicts what it decides on "hello"."""

    client: httpx.Client
    line: bytes

    def ask(self, max_tokens: int, **body: Any) -> dict[str, Any]:
        """The answer."""
        params = {"max_tokens": max_tokens, "temperature": 0, "seed": 7}
        answer = self.client.post("/ask", json=ask_body("hello", gen_params=params, **body))
        found: dict[str, Any] = answer.json()
        return found


def meta_of(client: httpx.Client, max_tokens: int, **body: Any) -> dict[str, Any]:
    params = {"max_tokens": max_tokens, "temperature": 0, "seed": 7}
    answer = client.post("/ask", json=ask_body("hello", gen_params=params, **body)).json()
    meta: dict[str, Any] = answer["meta"]
    return meta


def ends_of(spy: Spy) -> list[Done]:
    return [event for event in spy.events if isinstance(event, Done)]


def evaluated(usage: dict[str, int]) -> int:
    return usage["prompt_tokens"] - usage["cached_tokens"]


REFUSED = [
    pytest.param((b"You scum! And", 256), id="as it is spoken"),
    pytest.param((b"scum", 1), id="at its end"),
]
"""What each token of a first attempt says, and how many there are at most."""


@pytest.mark.parametrize("refused", REFUSED)
@pytest.mark.parametrize("is_closed", [False, True])
def test_a_line_asked_for_again_costs_both_attempts(
    refusing: httpx.Client, spy: Spy, say: Say, refused: tuple[bytes, int], is_closed: bool
) -> None:
    piece, max_tokens = refused
    say(piece, b"All is well. ")
    meta = meta_of(refusing, max_tokens, precheck_passed=not is_closed)
    assert (meta["text_source"], meta["line_refused"]) == ("regenerated", ["banned_word"])
    first, second = ends_of(spy)
    usages = first.usage, second.usage
    assert evaluated(meta["usage"]) == sum(u.prompt_tokens - u.cached_tokens for u in usages)
    assert meta["usage"]["completion_tokens"] == len(first.tokens) + len(second.tokens) > 0
    spans = meta["timings_ms"]
    assert ("state" in spans) is not is_closed
    assert first.timings.total is not None
    assert spans["first_token"] > first.timings.total - 0.01
    assert spans["total"] >= spans["first_token"]


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch, spy: Spy) -> None:
    """An engine that takes one request alone."""
    submit = Engine.submit

    def refuse(engine: Engine, request: Request, emit: Callable[[Event], None]) -> object:
        if spy.requests:
            raise Overloaded("no place")
        return submit(engine, request, emit)

    monkeypatch.setattr(Engine, "submit", refuse)


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("refused", REFUSED)
def test_a_second_try_that_finds_no_place_leaves_the_costs_of_the_first(
    refusing: httpx.Client, spy: Spy, say: Say, refused: tuple[bytes, int]
) -> None:
    piece, max_tokens = refused
    say(piece)
    meta = meta_of(refusing, max_tokens)
    (first,) = ends_of(spy)
    assert (meta["valid"], meta["text_source"]) == (True, "authored")
    assert meta["usage"] == msgspec.to_builtins(first.usage)
    assert meta["timings_ms"]["state"] == round(first.timings.state or 0.0, 2)


def test_a_line_that_ends_before_a_refused_sentence_has_its_costs(
    refusing: httpx.Client, spy: Spy, say: Say
) -> None:
    say(b"Aye. You scum! And")
    meta = meta_of(refusing, 9)
    (done,) = ends_of(spy)
    assert (meta["text_source"], meta["line_refused"]) == ("model", ["banned_word"])
    assert meta["usage"] == msgspec.to_builtins(done.usage)
    assert {"state", "total"} <= meta["timings_ms"].keys()


@pytest.fixture
def agreeing(tiny_service: Service, say: Say, spy: Spy) -> Iterator[Contrary]:
    """A server whose lines are held against its decisions, and what contradicts one."""
    agreement = Agreement(
        msgspec.structs.replace(fit_agreement(turns(), []), thresholds=(0.5, 0.5))
    )
    service = altered(tiny_service, agreement=agreement, sessions=Sessions())
    with client_of(service) as client:
        say(b"All is well. ")
        answer = client.post("/ask", json=ask_body("hello", gen_params={"max_tokens": 1})).json()
        spy.requests.clear()
        spy.events.clear()
        yield Contrary(
            client, b"No, never. " if any(answer["flags"].values()) else b"Here, take it. "
        )


def test_a_line_that_contradicts_its_decision_is_asked_for_again(
    agreeing: Contrary, spy: Spy, say: Say
) -> None:
    say(agreeing.line, b"All is well. ")
    answer = agreeing.ask(max_tokens=2)
    assert answer["meta"]["line_refused"] == ["contradicts_decision"]
    assert answer["meta"]["text_source"] == "regenerated"
    assert answer["text"].strip() == "All is well. All is well."
    first, second = spy.requests
    decision = second.prompt[len(first.prompt) :]
    assert decision
    assert second.on_state is None, "the decision stands"


def test_what_is_said_at_the_last_attempt_stands(agreeing: Contrary, spy: Spy, say: Say) -> None:
    say(*[agreeing.line] * MAX_ATTEMPTS)
    answer = agreeing.ask(max_tokens=1)
    assert answer["meta"]["line_refused"] == ["contradicts_decision"] * (MAX_ATTEMPTS - 1)
    assert answer["text"].strip() == agreeing.line.decode().strip()
    second, third = spy.requests[1:]
    assert second.prompt == third.prompt
    assert second.sampling.seed != third.sampling.seed


def test_a_line_ends_before_a_sentence_that_contradicts_its_decision(
    agreeing: Contrary, say: Say
) -> None:
    say(b"All is well. " + agreeing.line * 5)
    answer = agreeing.ask(max_tokens=1)
    assert answer["text"].strip() == "All is well."
    assert answer["meta"]["line_refused"] == ["contradicts_decision"]
    assert answer["meta"]["text_source"] == "model"


def test_a_fallback_has_no_decision_to_contradict(agreeing: Contrary, say: Say) -> None:
    say(b"Here, take it. No, never. ")
    answer = agreeing.ask(max_tokens=1, precheck_passed=False)
    assert "line_refused" not in answer["meta"]


def done(usage: Usage, *spans: float | None) -> Done:
    return Done(FinishReason.STOP, (), usage, Timings(*spans))


FIRST = done(Usage(100, 60, 5), 1.0, 20.0, 21.0, 30.0, 80.0)
SECOND = done(Usage(104, 100, 7), 2.0, 4.0, None, 6.0, 50.004)
HOPELESS = done(Usage(104, 0, 0), None, None, None, None, 9.0)


def test_tokens_of_all_attempts_add_up() -> None:
    assert usage_of([]).prompt_tokens == 0
    assert msgspec.structs.astuple(usage_of([FIRST])) == (100, 60, 5)
    assert msgspec.structs.astuple(usage_of([FIRST, SECOND])) == (204, 160, 12)


@pytest.mark.parametrize(
    ("attempts", "spans"),
    [
        ([], {}),
        ([FIRST], {"first_token": 30.0, "total": 80.0}),
        ([FIRST, SECOND], {"first_token": 86.0, "total": 130.0}),
        ([FIRST, HOPELESS], {"total": 89.0}),
    ],
)
def test_times_are_the_way_to_the_first_state_and_to_the_last_line(
    attempts: list[Done], spans: dict[str, float]
) -> None:
    way = {"queue": 1.0, "prefill": 20.0, "state": 21.0} if attempts else {}
    assert timings_of(attempts) == TimingsMeta(**way, **spans)
