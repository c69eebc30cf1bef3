"""Ways to run the engine in these tests: by hand or on its thread, its batches recorded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from runtime.context_config import ContextConfig
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.engine import Engine
from runtime.kv_cache import Offload
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel, Vector
from runtime.sampling import SamplingParams
from runtime.sequence import (
    Done,
    EngineSequence,
    Event,
    Failed,
    Request,
    State,
    Token,
)
from runtime.step_budget import WholeBatches

SMALL = ContextConfig(n_ctx=2048, n_seq_max=4, n_batch=64, n_threads=1, n_threads_batch=1)
EXACT = replace(SMALL, kv_type="f32", flash_attention=False)
"""Nothing is rounded to 16 bits: flash attention does so even with a KV cache in f32."""


def greedy(max_tokens: int = 12, penalty: float = 1.0, **others: Any) -> SamplingParams:
    """The likeliest token each time."""
    return SamplingParams(0.0, repetition_penalty=penalty, max_tokens=max_tokens, **others)


def make_encoder(model: LlamaModel) -> PromptEncoder:
    """An encoder with the special tokens that the model has."""
    return PromptEncoder(model, find_special_ids(model))


@dataclass(slots=True)
class Batch:
    """What one decode was given, and what llama.cpp held afterwards."""

    chunks: Sequence[Chunk]
    embeddings: bool
    rows_with_logits: list[int]
    logits: dict[int, Vector]
    """After each chunk that is an output, by sequence id."""

    @property
    def num_tokens(self) -> int:
        """Tokens evaluated."""
        return sum(len(chunk.tokens) for chunk in self.chunks)


class RecordingContext(LlamaContext):
    """A context that remembers its batches, and whether each row of them has logits."""

    def __init__(self, model: LlamaModel, config: ContextConfig = SMALL) -> None:
        super().__init__(model, config)
        self.batches: list[Batch] = []

    def decode(self, chunks: Sequence[Chunk], *, embeddings: bool = False) -> list[int]:
        """Evaluate and remember."""
        rows = super().decode(chunks, embeddings=embeddings)
        batch = Batch(list(chunks), embeddings, [], {})
        batch.rows_with_logits = [row for row in range(batch.num_tokens) if self._has_logits(row)]
        pairs = zip(chunks, rows, strict=True)
        batch.logits = {chunk.seq_id: self.logits(row) for chunk, row in pairs if chunk.is_output}
        self.batches.append(batch)
        return rows

    def _has_logits(self, row: int) -> bool:
        try:
            self.logits(row)
        except AssertionError:  # llama.cpp itself says that the row was no output
            return False
        return True


@contextmanager
def open_context(model: LlamaModel, config: ContextConfig = SMALL) -> Iterator[RecordingContext]:
    """A fresh context, closed at the end."""
    context = RecordingContext(model, config)
    try:
        yield context
    finally:
        context.close()


@contextmanager
def by_hand(
    model: LlamaModel,
    config: ContextConfig = SMALL,
    *,
    max_waiting: int = 64,
    max_residents: int = 0,
    offload: Offload | None = None,
) -> Iterator["Bench"]:
    """An engine without its thread: the test calls `step`."""
    with open_context(model, config) as context:
        engine = Engine(
            context,
            max_waiting=max_waiting,
            max_residents=max_residents,
            offload=offload,
            budget=WholeBatches(),
        )
        try:
            yield Bench(engine, context)
        finally:
            engine.close()


@contextmanager
def running(
    model: LlamaModel, config: ContextConfig = SMALL, *, max_waiting: int = 64
) -> Iterator[Engine]:
    """An engine on its own thread."""
    with open_context(model, config) as context, Engine(context, max_waiting=max_waiting) as engine:
        yield engine


@dataclass(slots=True)
class Client:
    """Someone who submitted a request: the events that came."""

    request: Request
    events: list[Event] = field(default_factory=list)
    sequence: EngineSequence = field(init=False)

    @property
    def states(self) -> list[Vector]:
        """Every STATE vector delivered."""
        return [event.vector for event in self.events if isinstance(event, State)]

    @property
    def text(self) -> str:
        """The reply as shown."""
        return "".join(event.text for event in self.events if isinstance(event, Token))

    @property
    def done(self) -> Done:
        """The end of the reply, which must be the last event and the only one of its kind."""
        (done,) = [event for event in self.events if isinstance(event, Done)]
        assert self.events[-1] is done
        return done

    @property
    def error(self) -> Exception:
        """Why the request failed, which must be the last event and the only one of its kind."""
        (failed,) = [event for event in self.events if isinstance(event, Failed)]
        assert self.events[-1] is failed
        return failed.error

    @property
    def is_over(self) -> bool:
        """Whether Done or Failed has come."""
        return bool(self.events) and isinstance(self.events[-1], (Done, Failed))


@dataclass(slots=True)
class Bench:
    """An engine driven by hand, and its context."""

    engine: Engine
    context: RecordingContext

    def submit(self, request: Request) -> Client:
        """Queue a request."""
        client = Client(request)
        client.sequence = self.engine.submit(request, client.events.append)
        return client

    def start(self, *requests: Request) -> list[Client]:
        """Submit requests together and step until each of them replies."""
        clients = [self.submit(request) for request in requests]
        while not all(client.sequence.reply for client in clients):
            assert self.engine.step()
        return clients

    def finish(self, *requests: Request) -> list[Client]:
        """Submit requests together and step until there is nothing left to do."""
        clients = [self.submit(request) for request in requests]
        while self.engine.step():
            pass
        return clients

    def finish_one(self, request: Request) -> Client:
        """Submit one request and step until it is over."""
        (client,) = self.finish(request)
        return client

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held: no request, sequence id, cell or llama.cpp position."""
        stats, config = self.engine.stats, self.context.config
        held = [self.context.num_cells(seq_id) for seq_id in range(config.n_seq_max)]
        counts = (stats.num_waiting, stats.num_running, stats.num_claimed_sequences, *held)
        return not any(counts) and stats.num_free_cells == config.n_ctx
