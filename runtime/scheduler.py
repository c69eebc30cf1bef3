"""Which sequences are evaluated next: pure policy, without llama.cpp, threads or clock.

First come, first served into a fixed number of sequences and KV cells, each admitted request with
all the cells it can need, so that none can run out midway. Replies go on in every batch; waiting
prompts are prefilled in what is left of its token budget.

What a finished sequence leaves in the cache stays there as a resident until its place is needed; a
request whose prompt begins like one is evaluated from where they part.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from runtime.cells import CellLedger
from runtime.errors import Overloaded, PromptTooLong
from runtime.prefix_cache import Match, PrefixCache
from runtime.sequence import EngineSequence


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the scheduler. `batch_tokens` is the token budget of one step."""

    sequences: int
    cells: int
    batch_tokens: int
    waiting: int
    residents: int = 0
    """Finished sequences that are kept; their ids come on top of `sequences`."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The next `count` tokens of a sequence, and whether the last one's outputs are wanted."""

    sequence: EngineSequence
    count: int
    is_output: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """One batch. With `embeddings` every token of it is an output, so prompts keep out of it."""

    slices: list[Slice]
    embeddings: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """Free the cells of a sequence from position `start` on."""

    seq_id: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Let `target` have the first `end` cells of `source` too."""

    source: int
    target: int
    end: int


CacheStep: TypeAlias = Forget | Share
"""What the KV cache has to do, in the order given."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that runs from now on, and what the cache does first."""

    sequence: EngineSequence
    steps: list[CacheStep]


class Scheduler:
    """Holds the waiting and the running sequences, and the residents."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[EngineSequence] = deque()
        self.running: list[EngineSequence] = []
        self._free_ids = list(range(limits.sequences + limits.residents - 1, -1, -1))
        self._cells = CellLedger(limits.cells)
        self._cache = PrefixCache()

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def num_claimed(self) -> int:
        """Sequence ids of running sequences."""
        return len(self.running)

    @property
    def num_residents(self) -> int:
        """Finished sequences that are kept."""
        return len(self._cache)

    @property
    def num_free_cells(self) -> int:
        """KV cells that no admitted request may need: empty ones, and residents'."""
        return self.limits.cells - self._cells.held_by(self._running_ids)

    @property
    def num_resident_cells(self) -> int:
        """KV cells that residents alone hold."""
        return self.num_free_cells - self._cells.num_free

    @property
    def _running_ids(self) -> list[int]:
        return [sequence.seq_id for sequence in self.running if sequence.seq_id is not None]

    def check_fits(self, sequence: EngineSequence) -> None:
        """Raise PromptTooLong if the sequence could never be admitted."""
        if sequence.num_cells_needed > self.limits.cells:
            raise PromptTooLong(
                f"{len(sequence.request.prompt)} prompt tokens and the reply need "
                f"{sequence.num_cells_needed} KV cells, the cache has {self.limits.cells}; "
                "shorten the prompt or raise PERSONA_N_CTX"
            )

    def add(self, sequence: EngineSequence) -> None:
        """Queue a sequence. Raises Overloaded or PromptTooLong."""
        self.check_fits(sequence)
        # a burst between two steps has not been admitted yet: what can start at once does not wait
        num_startable = self.limits.sequences - len(self.running)
        if len(self.waiting) >= self.limits.waiting + num_startable:
            raise Overloaded(f"{len(self.waiting)} requests are waiting already; try again later")
        self.waiting.append(sequence)

    def admit(self) -> Iterator[Admission]:
        """Move waiting sequences to running while ids and cells last, in order of arrival.

        The cache's steps must be done before the next admission is asked for.
        """
        while self.waiting and len(self.running) < self.limits.sequences:
            sequence = self.waiting[0]
            if sequence.num_cells_needed > self.num_free_cells:
                return
            self.waiting.popleft()
            yield Admission(sequence, self._place(sequence))

    def remove(self, sequence: EngineSequence, *, is_kept: bool = False) -> list[CacheStep]:
        """Forget a sequence wherever it is; what of the cache is to be freed.

        With `is_kept` what was evaluated of it stays as a resident, if there may be any.
        """
        if sequence.seq_id is None:
            self.waiting.remove(sequence)
            return []
        seq_id, sequence.seq_id = sequence.seq_id, None
        self.running.remove(sequence)
        tokens = sequence.tokens[: sequence.num_evaluated]
        known = self._cache.find(tokens)
        is_new = known is None or known.length < len(tokens)
        if not (is_kept and tokens and is_new and self.limits.residents):
            return [self._free(seq_id)]
        self._cells.cut(seq_id, len(tokens))
        needless = self._cache.add(seq_id, tokens)
        if len(self._cache) > self.limits.residents:
            needless.append(self._evict())
        return [self._free(other) for other in needless]

    def _place(self, sequence: EngineSequence) -> list[CacheStep]:
        """Give a sequence its id and cells, residents making way; what the cache has to do."""
        # one token at least is evaluated: its outputs are what is asked for
        match = self._cache.find(sequence.request.prompt[:-1])
        length = match.length if match else 0
        num_cells = sequence.num_cells_needed - length
        if match:
            self._cache.touch(match.seq_id)
        steps: list[CacheStep] = []
        while self._cells.num_free < num_cells and len(self._cache) > (match is not None):
            steps.append(self._free(self._evict()))
        if match and (match.is_whole or self._cells.num_free < num_cells):
            sequence.seq_id = self._take_over(match, steps)
        else:
            sequence.seq_id = self._free_ids.pop()
            if match:
                self._cells.share(match.seq_id, sequence.seq_id, length)
                steps.append(Share(match.seq_id, sequence.seq_id, length))
        self._cells.claim(sequence.seq_id, num_cells)
        sequence.num_cached = sequence.num_evaluated = length
        self.running.append(sequence)
        return steps

    def _take_over(self, match: Match, steps: list[CacheStep]) -> int:
        """Let a resident run again, from where the prompt leaves it."""
        self._cache.remove(match.seq_id)
        if not match.is_whole:
            self._cells.cut(match.seq_id, match.length)
            steps.append(Forget(match.seq_id, match.length))
        return match.seq_id

    def _evict(self) -> int:
        """Take the least recently used resident out of the cache; its id."""
        seq_id = self._cache.seq_ids[0]
        self._cache.remove(seq_id)
        return seq_id

    def _free(self, seq_id: int) -> Forget:
        self._cells.cut(seq_id, 0)
        self._free_ids.append(seq_id)
        return Forget(seq_id)

    def plan(self) -> Plan:
        """The next batch: replies first, then either due `<STATE>` tokens or prompt chunks."""
        slices = [Slice(s, 1, is_output=True) for s in self.running if s.is_replying]
        states = [Slice(s, 1, is_output=True) for s in self.running if s.is_at_state]
        if states:
            return Plan(slices + states, embeddings=True)
        budget = self.limits.batch_tokens - len(slices)
        for sequence in self.running:
            if sequence.is_replying or budget <= 0:
                continue
            count = min(_num_prefill(sequence), budget)
            is_last = count == sequence.num_pending
            slices.append(Slice(sequence, count, is_output=is_last))
            budget -= count
        return Plan(slices, embeddings=False)


def _num_prefill(sequence: EngineSequence) -> int:
    """Tokens to evaluate before `<STATE>`, or all that are known once the state is decided."""
    return sequence.num_pending - 1 if sequence.is_state_due else sequence.num_pending
