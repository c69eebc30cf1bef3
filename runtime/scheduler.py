"""Which sequences are evaluated next: pure policy, without llama.cpp, threads or clock.

First come, first served into a fixed number of sequences and KV cells, each admitted request with
all the cells it can need, so that none can run out midway. Replies go on in every batch; waiting
prompts are prefilled in what is left of its token budget.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from runtime.errors import Overloaded, PromptTooLong
from runtime.sequence import EngineSequence


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the scheduler. `batch_tokens` is the token budget of one step."""

    sequences: int
    cells: int
    batch_tokens: int
    waiting: int


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


class Scheduler:
    """Holds the waiting and the running sequences."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: deque[EngineSequence] = deque()
        self.running: list[EngineSequence] = []
        self._free_ids = list(range(limits.sequences - 1, -1, -1))
        self._free_cells = limits.cells

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def num_claimed(self) -> int:
        """Sequence ids in use."""
        return self.limits.sequences - len(self._free_ids)

    @property
    def num_free_cells(self) -> int:
        """KV cells that no admitted request may need."""
        return self._free_cells

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
        if len(self.waiting) >= self.limits.waiting + len(self._free_ids):
            raise Overloaded(f"{len(self.waiting)} requests are waiting already; try again later")
        self.waiting.append(sequence)

    def admit(self) -> Iterator[EngineSequence]:
        """Move waiting sequences to running while ids and cells last, in order of arrival."""
        while self.waiting and self._free_ids:
            sequence = self.waiting[0]
            if sequence.num_cells_needed > self._free_cells:
                return
            self.waiting.popleft()
            self._free_cells -= sequence.num_cells_needed
            sequence.seq_id = self._free_ids.pop()
            self.running.append(sequence)
            yield sequence

    def remove(self, sequence: EngineSequence) -> None:
        """Forget a sequence wherever it is, and free what it claimed."""
        if sequence.seq_id is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self._free_cells += sequence.num_cells_needed
        self._free_ids.append(sequence.seq_id)
        sequence.seq_id = None

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
