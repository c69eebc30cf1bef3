"""The server of `persona bench http`: all of it is real but the model's evaluations.

`python -m bench.instant_server --host H --port P --data FOLDER`, with the settings of `persona
serve`. `GET /records` gives, and forgets, what became of every `/ask`, in order.
"""

import argparse
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path

import msgspec
import uvicorn
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.players import read_players
from rag.embedder import Embedder, Heard, Vectors
from runtime.engine import Engine
from runtime.llama_backend import LlamaModel
from runtime.prompt import Special
from runtime.sampling import SamplingParams
from runtime.sequence import Done, EngineSequence, Event, FinishReason, Request, State, Token
from runtime.sequence import Vector as StateVector
from runtime.stats import EngineStats
from runtime.text import TextStream
from server.http import make_app
from server.service import Service, open_service
from server.serving import Http
from server.settings import read_settings

RECORDS = "/records"
NUM_STATES = 16
"""Real states that the heads are given, in turn."""


class Record(msgspec.Struct):
    """Milliseconds of one request: in the application, and of that in its parts.

    The sentence encoder reads the utterance before the engine is asked (`hearing`), and where the
    scene has bad examples each sentence of the line after that (`checking`). `decision` is the
    engine's callback, heads and policies; `engine` the stand-in's own thread besides. These two are
    CPU time: the thread waits for Python's lock while the event loop takes what it gave.
    """

    app: float = 0.0
    hearing: float = 0.0
    checking: float = 0.0
    num_checked: int = 0
    decision: float = 0.0
    engine: float = 0.0

    @property
    def encoder(self) -> float:
        """Both parts of the sentence encoder's."""
        return self.hearing + self.checking


current_record: ContextVar[Record] = ContextVar("record")


@dataclass(frozen=True, slots=True)
class Reply:
    """What is said: tokens, and the text that each lets out."""

    tokens: tuple[int, ...]
    texts: list[str]


@dataclass(slots=True)
class _Job:
    sequence: EngineSequence
    record: Record = field(default_factory=Record)


class InstantEngine(Engine):
    """Stands in for Engine: its own thread and the same events, but nothing is evaluated.

    Requests come out in order. States and replies are taken in turn from those given; a reply is
    cut at its `max_tokens`.
    """

    def __init__(self, states: Sequence[StateVector], replies: Sequence[Reply]) -> None:
        # Engine's own parts, a context above all, are what this does without.
        self._states, self._replies = cycle(states), cycle(replies)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_warm = threading.Event()
        self._is_warm.set()

    @property
    def stats(self) -> EngineStats:
        """Nothing is held."""
        return EngineStats(0, 0, 0, 0, 0, 0)

    def submit(self, request: Request, emit: Callable[[Event], None]) -> EngineSequence:
        """See Engine."""
        job = _Job(EngineSequence(request, emit), current_record.get(Record()))
        self._jobs.put(job)
        return job.sequence

    def cancel(self, sequence: EngineSequence) -> None:
        """See Engine; it is over before anyone could."""

    def close(self) -> None:
        """See Engine."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join()

    def _loop(self) -> None:
        while job := self._jobs.get():
            start = time.thread_time()
            decision = self._answer(job)
            job.record.decision += decision
            job.record.engine += (time.thread_time() - start) * 1e3 - decision

    def _answer(self, job: _Job) -> float:
        """All events of a request; milliseconds that its callback took."""
        sequence = job.sequence
        request, emit, watch = sequence.request, sequence.emit, sequence.watch
        decision = 0.0
        watch.mark("queue")
        if request.on_state is not None:
            state = next(self._states)
            watch.mark("state")
            start = time.thread_time()
            sequence.decide(request.on_state(state))
            decision = (time.thread_time() - start) * 1e3
            emit(State(state))
        reply = next(self._replies)
        watch.mark("first_token")
        count = min(len(reply.tokens), request.sampling.max_tokens)
        for text in reply.texts[:count]:
            if text and (due := sequence.take_due(text)):
                emit(Token(due))
        if rest := sequence.take_untold():
            emit(Token(rest))
        sequence.tokens += reply.tokens[:count]
        watch.mark("total")
        reason = FinishReason.STOP if count == len(reply.tokens) else FinishReason.LENGTH
        emit(Done(reason, reply.tokens[:count], sequence.usage(), watch.timings()))
        return decision


class TimedEmbedder(Embedder):
    """An encoder whose time goes to the record of the request that it works for."""

    def __init__(self, embedder: Embedder) -> None:
        self.id, self.dim = embedder.id, embedder.dim
        self._embedder = embedder
        self.blend = embedder.blend

    def encode(self, texts: Sequence[str]) -> Vectors:
        """See Embedder: sentences of a line, when a turn is on its way."""
        start = time.perf_counter()
        vectors = self._embedder.encode(texts)
        record = current_record.get(Record())
        record.checking += (time.perf_counter() - start) * 1e3
        record.num_checked += len(texts)
        return vectors

    def hear(self, remark: str) -> Heard:
        """See Embedder: the utterance of a turn."""
        start = time.perf_counter()
        heard = self._embedder.hear(remark)
        current_record.get(Record()).hearing += (time.perf_counter() - start) * 1e3
        return heard


class Recorded:
    """An application that keeps a record of every `/ask`."""

    def __init__(self, app: ASGIApp, records: list[Record]) -> None:
        self._app, self._records = app, records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope.get("path") != "/ask":
            await self._app(scope, receive, send)
            return
        record = Record()
        self._records.append(record)
        current_record.set(record)
        start = time.perf_counter()
        await self._app(scope, receive, send)
        record.app = (time.perf_counter() - start) * 1e3


@contextmanager
def open_instant(service: Service, lines: Sequence[str]) -> Iterator[Service]:
    """A real service with the stand-in for its engine, which answers with `lines`."""
    states = _real_states(service, lines[:NUM_STATES])
    model = LlamaModel(service.loaded.bundle.model, vocab_only=True)
    replies = [_reply(model, line) for line in lines]
    model.close()
    with InstantEngine(states, replies) as engine:
        retriever = service.dialogue.retriever
        if retriever is not None:
            retriever = replace(retriever, embedder=TimedEmbedder(retriever.embedder))
        dialogue = replace(service.dialogue, engine=engine, retriever=retriever)
        yield replace(service, loaded=replace(service.loaded, engine=engine), dialogue=dialogue)


def _real_states(service: Service, lines: Sequence[str]) -> list[StateVector]:
    """States of short prompts, from the real engine: the heads must have something to decide."""
    encoder = service.loaded.encoder
    (npc,) = encoder.encode([Special.NPC])
    sampling = SamplingParams(max_tokens=1)
    states = []
    for line in lines:
        prompt = encoder.begin([Special.PLAYER, line, Special.STATE])
        request = Request(prompt, sampling, lambda _: [npc])
        states += [e.vector for e in service.engine.run(request) if isinstance(e, State)]
    return states


def _reply(model: LlamaModel, line: str) -> Reply:
    text, tokens = TextStream(), tuple(model.tokenize(line))
    return Reply(tokens, [text.push(model.piece(token)) for token in tokens])


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", required=True, type=int)
    parser.add_argument("--data", required=True, type=Path)
    args = parser.parse_args()
    settings = read_settings()
    logging.basicConfig(level=settings.log_level.upper())
    lines = [turn.response for turn in read_players(args.data)]
    records: list[Record] = []

    async def give_records(_: HttpRequest) -> Response:
        content = msgspec.json.encode(records)
        records.clear()
        return Response(content, media_type="application/json")

    @contextmanager
    def opened() -> Iterator[Service]:
        with open_service(settings) as real, open_instant(real, lines) as service:
            yield service

    app = make_app(opened)
    app.routes.append(Route(RECORDS, give_records))
    recorded = Recorded(app, records)
    config = uvicorn.Config(
        recorded, args.host, args.port, http=Http, log_config=None, access_log=False
    )
    uvicorn.Server(config).run()


if __name__ == "__main__":
    main()
