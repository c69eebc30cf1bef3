"""llama.cpp as its own tools drive it: one batch a step, a sampler chain a sequence, nothing else.

Beside it the same work by our engine, so that the two can be held against each other.
"""

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from runtime import llama_backend
from runtime.engine import Engine
from runtime.errors import DecodeError
from runtime.llama_backend import LlamaContext, LlamaModel, Sampler
from runtime.sampling import SamplingParams
from runtime.sequence import Done, Event, Failed, Request
from runtime.step_budget import WholeBatches

C: Any = llama_backend.C  # type: ignore[attr-defined]  # that module alone imports llama_cpp

_TIMED = ("llama_decode", "llama_sampler_sample")
_SENTENCE = 12
"""Letters that are told together, as serving tells whole sentences."""


class EndlessModel(LlamaModel):
    """A model whose replies go on to their limit, a letter a token.

    The engine's questions to the vocabulary are asked all the same: they cost what they cost.
    """

    def is_end(self, token: int) -> bool:
        """Whether the reply ends: never."""
        super().is_end(token)
        return False

    def is_control(self, token: int) -> bool:
        """Whether the reply ends: never."""
        super().is_control(token)
        return False

    def piece(self, token: int) -> bytes:
        """One letter."""
        super().piece(token)
        return b"."


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts that are replied to together, and how; all replies have the same length."""

    prompts: Sequence[Sequence[int]]
    samplings: Sequence[SamplingParams]

    @property
    def num_prompt(self) -> int:
        """Tokens of all prompts."""
        return sum(map(len, self.prompts))

    @property
    def num_decoded(self) -> int:
        """Tokens of all replies but the first of each, which the prompt's evaluation gives."""
        return len(self.prompts) * (self.samplings[0].max_tokens - 1)

    @property
    def num_longest(self) -> int:
        """Tokens of the longest prompt and its reply."""
        return max(map(len, self.prompts)) + self.samplings[0].max_tokens

    @property
    def num_cells(self) -> int:
        """KV cells that all of it can need."""
        return self.num_prompt + len(self.prompts) * self.samplings[0].max_tokens


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run drew, a tuple a sequence, and the seconds that it took.

    `first_s` is from the start to the last sequence's first token, `decode_s` from there to the
    last token of all; `calls_s` is the part of `decode_s` that llama.cpp worked, if watched.
    """

    replies: list[tuple[int, ...]]
    first_s: float
    decode_s: float
    calls_s: float = 0.0


def run_raw(context: LlamaContext, work: Work) -> Measured:
    """The work by the C API alone; leaves the context empty. Raises DecodeError."""
    loop = _RawLoop(context, work)
    try:
        start = time.monotonic()
        loop.prefill()
        first = time.monotonic()
        loop.decode(work.samplings[0].max_tokens - 1)
        end = time.monotonic()
    finally:
        loop.close()
    return Measured([tuple(reply) for reply in loop.replies], first - start, end - first)


class _RawLoop:
    def __init__(self, context: LlamaContext, work: Work) -> None:
        self._context, self._prompts = context, work.prompts
        self._samplers = [Sampler(params, context.model.n_vocab) for params in work.samplings]
        self._chains = [sampler.handle for sampler in self._samplers]
        self._batch = C.llama_batch_init(context.config.n_batch, 0, 1)
        self.replies: list[list[int]] = [[] for _ in work.prompts]

    def close(self) -> None:
        C.llama_batch_free(self._batch)
        for sampler in self._samplers:
            sampler.close()
        self._context.clear()

    def prefill(self) -> None:
        """All prompts one after another, in full batches; the first token of each reply."""
        batch, size = self._batch, self._context.config.n_batch
        tokens = [
            (seq, at) for seq, prompt in enumerate(self._prompts) for at in range(len(prompt))
        ]
        for start in range(0, len(tokens), size):
            part, ends = tokens[start : start + size], []
            for row, (seq, at) in enumerate(part):
                is_last = at == len(self._prompts[seq]) - 1
                batch.token[row], batch.pos[row] = self._prompts[seq][at], at
                batch.n_seq_id[row], batch.seq_id[row][0], batch.logits[row] = 1, seq, is_last
                if is_last:
                    ends.append((seq, row))
            batch.n_tokens = len(part)
            self._evaluate()
            for seq, row in ends:
                self.replies[seq].append(self._sample(seq, row))

    def decode(self, num_steps: int) -> None:
        """A token of each sequence a step, in one batch."""
        batch, replies = self._batch, self.replies
        token, position, sequences = batch.token, batch.pos, range(len(replies))
        for seq in sequences:
            batch.seq_id[seq][0], batch.logits[seq] = seq, True
            position[seq] = len(self._prompts[seq]) - 1
        batch.n_tokens = len(replies)
        for _ in range(num_steps):
            for seq in sequences:
                token[seq] = replies[seq][-1]
                position[seq] += 1
            self._evaluate()
            for seq in sequences:
                replies[seq].append(self._sample(seq, seq))

    def _evaluate(self) -> None:
        if code := C.llama_decode(self._context.handle, self._batch):
            raise DecodeError(code)

    def _sample(self, seq: int, row: int) -> int:
        token: int = C.llama_sampler_sample(self._chains[seq], self._context.handle, row)
        return token


class _Sentences:
    """Every so many letters are one."""

    def __init__(self) -> None:
        self._num_letters = 0

    def __call__(self, piece: str) -> bool:
        self._num_letters += len(piece)
        return self._num_letters % _SENTENCE == 0


def run_engine(context: LlamaContext, work: Work) -> Measured:
    """The work by an engine on its own thread, its calls of llama.cpp watched.

    All requests are there before it starts, so it evaluates what `run_raw` does, batch by batch,
    if the prompts fit one batch or there is only one.
    """
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    engine = Engine(context, max_waiting=len(work.prompts), budget=WholeBatches())
    with _watched_calls() as spans:
        sequences = [
            engine.submit(Request(prompt, sampling, is_due=_Sentences()), events.put)
            for prompt, sampling in zip(work.prompts, work.samplings, strict=True)
        ]
        with engine:
            num_open = len(sequences)
            while num_open:
                event = events.get()
                if isinstance(event, Failed):
                    raise event.error
                num_open -= isinstance(event, Done)
    watches = [sequence.watch for sequence in sequences]
    start = min(watch.marks["queue"] for watch in watches)  # after the warm-up
    first = max(watch.marks["first_token"] for watch in watches)
    end = max(watch.marks["total"] for watch in watches)
    return Measured(
        [tuple(sequence.reply) for sequence in sequences],
        first - start,
        end - first,
        sum(stop - start for start, stop in spans if first <= start and stop <= end),
    )


@contextmanager
def _watched_calls() -> Iterator[list[tuple[float, float]]]:
    """When each call in which llama.cpp works began and ended, as `time.monotonic()` tells it."""
    spans: list[tuple[float, float]] = []

    def watched(call: Callable[..., int]) -> Callable[..., int]:
        def timed(*args: object) -> int:
            start = time.monotonic()
            result = call(*args)
            spans.append((start, time.monotonic()))
            return result

        return timed

    calls = {name: getattr(C, name) for name in _TIMED}
    try:
        for name, call in calls.items():
            setattr(C, name, watched(call))
        yield spans
    finally:
        for name, call in calls.items():
            setattr(C, name, call)
