"""State vectors (and how likely the replies are) of a labelled dataset, from the GGUF that serves.

Conversations of one NPC are read several at a time: each is a sequence that shares the NPC's
`<SYS>` block, and their tokens fill the batches together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from pathlib import Path

import numpy as np

from heads.bundle import ContextSettings
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel, Vector
from train.dataset import TurnLabel
from train.transcripts import EncodedTranscript, EncodedTurn, TranscriptWriter


class Form(StrEnum):
    """How a turn's past is told."""

    CONTINUED = "continued"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True)
class LabelledState:
    """A turn, the form it was read in, and its `<STATE>` vector, float32 [n_embd]."""

    label: TurnLabel
    form: Form
    vector: Vector
    nll: float | None = None
    """Nats of the labelled reply, end of sequence included, under the labelled decision."""
    num_answered: int = 0
    """Tokens of the reply, end of sequence included."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A transcript to read, and the form that its turns are in."""

    form: Form
    transcript: EncodedTranscript


_SYS = 0
NUM_TOGETHER = 8
NUM_SEQUENCES = 1 + NUM_TOGETHER
"""Sequences that the reader can use: the NPC's block and the conversations."""
NUM_CELLS = 16_384


def readings(
    conversations: Iterable[Sequence[TurnLabel]], writer: TranscriptWriter
) -> list[Reading]:
    """Every conversation continued from its first turn, and its last turn rebuilt if it has a past.

    Those of one NPC and language stand together.
    """
    found: list[Reading] = []
    for turns in sorted(conversations, key=lambda turns: (turns[0].npc_id, turns[0].lang)):
        found.append(Reading(Form.CONTINUED, writer.write(turns)))
        if len(turns) > 1:
            found.append(Reading(Form.REBUILT, writer.write(turns, start=len(turns) - 1)))
    return found


class StateReader:
    """Evaluates transcripts on one context, each NPC's `<SYS>` block once.

    `with_nll` also scores the labelled replies; the output matrix then works for each of their
    tokens.
    """

    def __init__(self, context: LlamaContext, *, with_nll: bool = False) -> None:
        self._context, self._with_nll = context, with_nll
        self._together = context.config.n_seq_max - 1
        assert self._together >= 1, "one sequence is the NPC's block"

    def read(
        self, wanted: Sequence[Reading], on_progress: Callable[[int], None] = lambda _: None
    ) -> list[LabelledState]:
        """The states of all turns of `wanted`, in its order.

        `on_progress` is called with the number of turns read since its last call.
        """
        states: list[LabelledState] = []
        for opening, group in groupby(wanted, key=lambda reading: reading.transcript.opening):
            self._context.clear()
            self._append({_SYS: opening}, {})
            room = self._context.config.n_ctx - len(opening)
            for together in _packed(list(group), self._together, room):
                found = self._read_together(together, len(opening))
                states += [state for states_of_one in found for state in states_of_one]
                on_progress(sum(map(len, found)))
        return states

    def _read_together(self, wanted: Sequence[Reading], start: int) -> list[list[LabelledState]]:
        ends = {}
        for seq_id in range(1, 1 + self._together):
            self._context.forget(seq_id)
        for seq_id in range(1, 1 + len(wanted)):
            self._context.share(_SYS, seq_id, start)
            ends[seq_id] = start
        transcripts = {seq_id: r.transcript for seq_id, r in enumerate(wanted, start=1)}
        self._append({seq_id: t.told for seq_id, t in transcripts.items() if t.told}, ends)
        found: list[list[LabelledState]] = [[] for _ in wanted]
        for at in range(max(len(t.turns) for t in transcripts.values())):
            turns = {s: t.turns[at] for s, t in transcripts.items() if at < len(t.turns)}
            self._append({s: t.asked[:-1] for s, t in turns.items() if len(t.asked) > 1}, ends)
            vectors = self._states(turns, ends)
            followed = [s for s in turns if at + 1 < len(transcripts[s].turns)]
            scores = self._answer(turns, followed, ends)
            for seq_id, turn in turns.items():
                form = wanted[seq_id - 1].form
                size = len(turn.answered)
                state = LabelledState(turn.label, form, vectors[seq_id], scores[seq_id], size)
                found[seq_id - 1].append(state)
        return found

    def _append(self, tokens: dict[int, list[int]], ends: dict[int, int]) -> None:
        chunks = [Chunk(s, ends.get(s, 0), ids, is_output=False) for s, ids in tokens.items()]
        for batch in _batches(chunks, self._context.config.n_batch):
            self._context.decode(batch)
        for seq_id, ids in tokens.items():
            ends[seq_id] = ends.get(seq_id, 0) + len(ids)

    def _states(self, turns: dict[int, EncodedTurn], ends: dict[int, int]) -> dict[int, Vector]:
        chunks = [Chunk(s, ends[s], turn.asked[-1:], is_output=True) for s, turn in turns.items()]
        rows = self._context.decode(chunks, embeddings=True)
        for seq_id in turns:
            ends[seq_id] += 1
        return {s: self._context.embedding(row) for s, row in zip(turns, rows, strict=True)}

    def _answer(
        self, turns: dict[int, EncodedTurn], followed: Sequence[int], ends: dict[int, int]
    ) -> dict[int, float | None]:
        """Nats of the replies, None where they are not asked for.

        What nobody asks for is evaluated only where another turn follows.
        """
        if not self._with_nll:
            self._append({s: [*turns[s].decided, *turns[s].answered] for s in followed}, ends)
            return dict.fromkeys(turns)
        self._append({s: t.decided[:-1] for s, t in turns.items() if len(t.decided) > 1}, ends)
        nll: dict[int, float | None] = {}
        for seq_id, turn in turns.items():
            # each token is asked for the next one; the last of all has none to foretell
            asked = [turn.decided[-1], *turn.answered[:-1]]
            nll[seq_id] = self._score(seq_id, ends[seq_id], asked, turn.answered)
            ends[seq_id] += len(asked)
        self._append({s: turns[s].answered[-1:] for s in followed}, ends)
        return nll

    def _score(self, seq_id: int, end: int, asked: list[int], expected: list[int]) -> float:
        nll, size = 0.0, self._context.config.n_batch
        for start in range(0, len(asked), size):
            part = asked[start : start + size]
            chunks = [
                Chunk(seq_id, end + start + i, [token], is_output=True)
                for i, token in enumerate(part)
            ]
            rows = self._context.decode(chunks)
            for row, token in zip(rows, expected[start : start + size], strict=True):
                nll += surprise(self._context.logits(row), token)
        return nll


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under what a model reads: the settings that serve, and what is asked of it."""

    settings: ContextSettings
    num_threads: int
    with_nll: bool = True


def num_turns(wanted: Sequence[Reading]) -> int:
    """Turns to be read."""
    return sum(len(reading.transcript.turns) for reading in wanted)


def read_states(
    model: LlamaModel,
    wanted: Sequence[Reading],
    conditions: Conditions,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[LabelledState]:
    """`wanted` as `model` reads it."""
    config = conditions.settings.config(
        n_ctx=NUM_CELLS, n_seq_max=NUM_SEQUENCES, n_threads=conditions.num_threads
    )
    with closing(LlamaContext(model, config)) as context:
        return StateReader(context, with_nll=conditions.with_nll).read(wanted, on_progress)


def read_states_of(
    gguf: Path,
    wanted: Sequence[Reading],
    conditions: Conditions,
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[LabelledState]:
    """`wanted` as the model in `gguf` reads it, which is opened for that alone."""
    with closing(LlamaModel(gguf)) as model:
        return read_states(model, wanted, conditions, on_progress)


def surprise(logits: Vector, token: int) -> float:
    """Nats of `token` under `logits` [n_vocab]."""
    top = float(logits.max())
    return float(np.log(np.exp(logits - top).sum()) + top - logits[token])


def _packed(wanted: Sequence[Reading], count: int, room: int) -> Iterator[list[Reading]]:
    """Runs of at most `count` whose own tokens fit `room` cells together."""
    run: list[Reading] = []
    taken = 0
    for reading in wanted:
        size = reading.transcript.num_tokens - len(reading.transcript.opening)
        if run and (len(run) == count or taken + size > room):
            yield run
            run, taken = [], 0
        run.append(reading)
        taken += size
    if run:
        yield run


def _batches(chunks: Sequence[Chunk], size: int) -> Iterator[list[Chunk]]:
    """`chunks` in their order, cut so that each batch holds at most `size` tokens."""
    batch: list[Chunk] = []
    room = size
    for chunk in chunks:
        start = 0
        while start < len(chunk.tokens):
            part = chunk.tokens[start : start + room]
            batch.append(Chunk(chunk.seq_id, chunk.position + start, part, is_output=False))
            start, room = start + len(part), room - len(part)
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


def stack(states: Sequence[LabelledState]) -> Vector:
    """The vectors of `states`, float32 [len(states), n_embd]."""
    return np.stack([state.vector for state in states])
