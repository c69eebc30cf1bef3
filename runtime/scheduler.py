"""Which sequences are evaluated next: pure policy, without llama.cpp, threads or clock.

First come, first served into a fixed number of sequences and KV cells. Replies go on in every
batch; waiting prompts are prefilled in what is left of its token budget.

What a finished sequence leaves in the cache stays there as a resident until its place is needed; a
request whose prompt begins like one, or like one that runs, is evaluated from where they part.

A request is admitted with the cells of what is known and some for what will be generated. Where
that was too little and no resident is left to make way, the youngest gives its cells back and
begins again when there is room: the oldest always goes on.

Who makes way goes to the swap space, if there is one, and need not be evaluated anew.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runtime.cells import CellLedger
from runtime.errors import Overloaded, PromptTooLong
from runtime.plan import (
    Admission,
    CacheStep,
    Forget,
    Limits,
    Plan,
    Restore,
    Share,
    Slice,
    SwapIn,
    SwapOut,
)
from runtime.prefix_cache import Match, PrefixCache, num_shared
from runtime.sequence import EngineSequence
from runtime.swap_space import SwapSpace

ROOM = 128
"""Cells that a request is admitted with for what it generates: a decision and a line or two."""
MIN_GAIN = 16
"""Tokens that must be spared to share another's cells, to wait for it, or to read a state from
memory or disk: all prompts begin with the same two or three."""


@dataclass(frozen=True, slots=True)
class _Start:
    """What a sequence begins with, one of these: another's cells, a stored prefix, its state."""

    match: Match | None = None
    num_stored: int = 0
    """Tokens of the prefix."""
    swapped: Match | None = None


class Scheduler:
    """Holds the waiting and the running sequences, and the residents.

    `is_stored` says whether a prefix can be restored, `holds` whether the cache has all of a
    sequence that a token at some position sees.
    """

    def __init__(
        self,
        limits: Limits,
        is_stored: Callable[[Sequence[int]], bool] = lambda _: False,
        holds: Callable[[int, int], bool] = lambda *_: True,
        swap: SwapSpace | None = None,
    ) -> None:
        self.limits = limits
        self._swap = SwapSpace() if swap is None else swap
        self.waiting: deque[EngineSequence] = deque()
        self.running: list[EngineSequence] = []
        self._is_stored, self._holds = is_stored, holds
        self._free_ids = list(range(limits.sequences + limits.residents - 1, -1, -1))
        self._cells = CellLedger(limits.cells)
        self._cache = PrefixCache()
        self._num_given: dict[int, int] = {}
        """Of each resident: the tokens that were not sampled."""
        self.num_preempted = 0
        self.num_places = limits.sequences
        """Sequences that can run together: fewer than there may be where cells are short."""

    @property
    def is_full(self) -> bool:
        """Whether who waits has to wait until one that runs has ended."""
        return len(self.running) >= self.num_places

    @property
    def num_ahead(self) -> int:
        """Requests that must end before one more can begin; none, or less, if it can at once."""
        return len(self.waiting) + len(self.running) + 1 - self.num_places

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self.waiting or self.running)

    @property
    def num_claimed(self) -> int:
        """Sequence ids that are neither free nor a resident's: one for each that runs."""
        num_ids = self.limits.sequences + self.limits.residents
        return num_ids - len(self._free_ids) - len(self._cache)

    @property
    def num_residents(self) -> int:
        """Finished sequences that are kept."""
        return len(self._cache)

    @property
    def num_free_cells(self) -> int:
        """KV cells that no running sequence has: empty ones, and residents'."""
        return self.limits.cells - self._cells.held_by(_id(s) for s in self.running)

    @property
    def num_resident_cells(self) -> int:
        """KV cells that residents alone hold."""
        return self.num_free_cells - self._cells.num_free

    def check_fits(self, sequence: EngineSequence) -> None:
        """Raise PromptTooLong if the sequence could not be finished even alone."""
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
        self.num_places = self.limits.sequences
        while self.waiting and len(self.running) < self.limits.sequences:
            sequence = self.waiting[0]
            start = self._find_start(sequence)
            if start is None:
                return
            if not self._has_room(sequence, start.match):
                self.num_places = max(1, len(self.running))
                return
            steps = self._place(sequence, start)
            self.waiting.popleft()
            yield Admission(sequence, steps)

    def remove(self, sequence: EngineSequence, *, is_kept: bool = False) -> list[CacheStep]:
        """Forget a sequence wherever it is; what of the cache is to be freed.

        With `is_kept` what was evaluated of it stays as a resident, if there may be any.
        """
        if sequence.seq_id is None:
            self.waiting.remove(sequence)
            return []
        seq_id = self._take_id(sequence)
        tokens = sequence.tokens[: sequence.num_evaluated]
        if not (is_kept and tokens):
            return [self._free(seq_id)]
        if not self.limits.residents:
            return [*self._swap_out(seq_id, tokens, sequence.num_prompt), self._free(seq_id)]
        known = self._cache.find(tokens, self._holds)
        if known and known.length == len(tokens):
            self._cache.touch(known.holder)
            return [self._free(seq_id)]
        self._cells.cut(seq_id, len(tokens))
        self._num_given[seq_id] = sequence.num_prompt
        needless = self._cache.add(seq_id, tokens)
        if len(self._cache) > self.limits.residents:
            return [*map(self._free, needless), *self._evict()]
        return [*map(self._free, needless)]

    def plan(
        self,
        num_alongside: int | None = None,
        num_alone: int | None = None,
        num_decided: int | None = None,
    ) -> Plan:
        """The next batch: replies first, then either due `<STATE>` tokens or prompt chunks.

        Chunks have at most `num_alongside` tokens where replies go on meanwhile, else `num_alone`;
        where a decision stands between a reply and its first word, `num_decided`.
        """
        steps = self._make_room()
        slices = [Slice(s, 1, is_output=True) for s in self.running if s.is_replying]
        states = [Slice(s, 1, is_output=True) for s in self.running if s.is_at_state]
        num_coming = min(len(self.waiting), self.limits.sequences - len(self.running))
        num_prompts = len(self.running) - len(slices) - len(states) + num_coming
        if states:
            return Plan(slices + states, embeddings=True, steps=steps, num_prompts=num_prompts)
        left = self.limits.batch_tokens - len(slices)
        prompts = _at_most(left, num_alongside if slices else num_alone)
        decisions = _at_most(left, num_decided if slices else None)
        for sequence in self.running:
            if sequence.is_replying:
                continue
            most = decisions if sequence.is_decided else prompts
            if not (count := min(_num_prefill(sequence), most)):
                continue
            slices.append(Slice(sequence, count, is_output=count == sequence.num_pending))
            decisions = max(0, decisions - count)
            prompts = max(0, prompts - count)
        return Plan(slices, embeddings=False, steps=steps, num_prompts=num_prompts)

    def _find_start(self, sequence: EngineSequence) -> _Start | None:
        """Where a sequence begins; None while one that runs is about to have more of it."""
        # one token at least is evaluated: its outputs are what is asked for
        tokens = sequence.tokens[:-1]
        known = [(other, num_shared(other.tokens, tokens, 0)) for other in self.running]
        match = self._longest(tokens, known)
        start, length = _Start(match), match.length if match else 0
        swapped = self._swap.find(tokens)
        if swapped and swapped.length >= length + MIN_GAIN:
            start, length = _Start(swapped=swapped), swapped.length
        for count in reversed(sequence.request.prefixes):
            if count >= length + MIN_GAIN and self._is_stored(tokens[:count]):
                return _Start(num_stored=count)
        if any(n >= max(length, other.num_evaluated) + MIN_GAIN for other, n in known):
            return None
        return start

    def _longest(
        self, tokens: list[int], known: Sequence[tuple[EngineSequence, int]]
    ) -> Match | None:
        """What a resident, or one that runs, has of the beginning of `tokens`."""
        matches = [
            Match(_id(other), min(length, other.num_evaluated), is_whole=False)
            for other, length in known
        ]
        usable = [m for m in matches if m.length >= MIN_GAIN and self._holds(m.holder, m.length)]
        resident = self._cache.find(tokens, self._holds)
        if resident and (resident.length >= MIN_GAIN or resident.is_whole):
            usable.insert(0, resident)
        return max(usable, key=lambda m: m.length, default=None)

    def _has_room(self, sequence: EngineSequence, match: Match | None) -> bool:
        """Whether there are cells, residents' included, to start with.

        One that was preempted must be able to end, and those that run too: once is enough.
        """
        num_cells = _num_to_start(sequence)
        if match and match.holder not in self._cache:
            num_cells -= match.length
        if sequence.num_preempted:
            num_cells += sum(
                max(0, s.num_cells_needed - self._cells.num_of(_id(s))) for s in self.running
            )
        return num_cells <= self.num_free_cells

    def _place(self, sequence: EngineSequence, start: _Start) -> list[CacheStep]:
        """Give a sequence its id and cells, residents making way; what the cache has to do."""
        match, swapped = start.match, start.swapped
        state = self._swap.take(swapped) if swapped else b""  # before others are swapped out
        is_resident = match is not None and match.holder in self._cache
        length = match.length if match else 0
        num_cells = _num_to_start(sequence) - length
        if match and is_resident:
            self._cache.touch(match.holder)
        steps: list[CacheStep] = []
        while self._cells.num_free < num_cells and len(self._cache) > is_resident:
            steps += self._evict()
        if match and is_resident and (match.is_whole or self._cells.num_free < num_cells):
            seq_id = self._take_over(match, steps)
        else:
            seq_id = self._free_ids.pop()
            if match:
                self._cells.share(match.holder, seq_id, length)
                steps.append(Share(match.holder, seq_id, length))
        self._cells.claim(seq_id, num_cells)
        if start.num_stored:
            length = start.num_stored
            steps.append(Restore(seq_id, length))
        if swapped:
            length = swapped.length
            steps.append(SwapIn(seq_id, state, length))
        sequence.seq_id, sequence.num_evaluated = seq_id, length
        if not sequence.num_preempted:
            sequence.num_cached = length
        self.running.append(sequence)
        return steps

    def _take_over(self, match: Match, steps: list[CacheStep]) -> int:
        """Let a resident run again, from where the prompt leaves it."""
        seq_id = match.holder
        tokens = self._cache.remove(seq_id)
        if not match.is_whole:
            least = match.length + MIN_GAIN
            steps += self._swap_out(seq_id, tokens, self._num_given[seq_id], least)
            self._cells.cut(seq_id, match.length)
            steps.append(Forget(seq_id, match.length))
        return seq_id

    def _make_room(self) -> list[CacheStep]:
        """A cell for every known token of those that run, the oldest first."""
        steps: list[CacheStep] = []
        at = 0
        while at < len(self.running):
            sequence = self.running[at]
            missing = len(sequence.tokens) - self._cells.num_of(_id(sequence))
            if missing > self._cells.num_free and len(self._cache):
                steps += self._evict()
            elif missing > self._cells.num_free:
                steps += self._preempt(self.running[-1])
            else:
                self._cells.claim(_id(sequence), max(0, missing))
                at += 1
        return steps

    def _preempt(self, sequence: EngineSequence) -> list[CacheStep]:
        """Let a running sequence wait again, before all others."""
        tokens = sequence.tokens[: sequence.num_evaluated]
        seq_id = self._take_id(sequence)
        self.waiting.appendleft(sequence)
        sequence.num_evaluated = 0
        sequence.num_preempted += 1
        self.num_preempted += 1
        return [*self._swap_out(seq_id, tokens, len(tokens)), self._free(seq_id)]

    def _take_id(self, sequence: EngineSequence) -> int:
        seq_id, sequence.seq_id = _id(sequence), None
        self.running.remove(sequence)
        return seq_id

    def _evict(self) -> list[CacheStep]:
        """Take the least recently used resident out of the cache."""
        seq_id = self._cache.seq_ids[0]
        steps = self._swap_out(seq_id, self._cache.remove(seq_id), self._num_given[seq_id])
        return [*steps, self._free(seq_id)]

    def _swap_out(
        self, seq_id: int, tokens: list[int], num_given: int, least: int = MIN_GAIN
    ) -> list[CacheStep]:
        """Put a sequence that has `tokens` in the swap space, if that spares `least` some day.

        Up to where its line begins, which may be told otherwise than it was sampled; or else, where
        a sliding window no longer has what is needed there, all of it.
        """
        for kept in (tokens[:num_given], tokens):
            if len(kept) >= least and self._swap.wants(kept) and self._holds(seq_id, len(kept)):
                return [SwapOut(seq_id, kept)]
        return []

    def _free(self, seq_id: int) -> Forget:
        self._cells.cut(seq_id, 0)
        self._free_ids.append(seq_id)
        return Forget(seq_id)


def _id(sequence: EngineSequence) -> int:
    assert sequence.seq_id is not None, "it runs"
    return sequence.seq_id


def _num_to_start(sequence: EngineSequence) -> int:
    """Cells that a sequence is admitted with."""
    needed = sequence.num_cells_needed
    return needed if sequence.num_preempted else min(len(sequence.tokens) + ROOM, needed)


def _at_most(count: int, bound: int | None) -> int:
    return count if bound is None else min(count, bound)


def _num_prefill(sequence: EngineSequence) -> int:
    """Tokens to evaluate before `<STATE>`, or all that are known once the state is decided."""
    return sequence.num_pending - 1 if sequence.is_state_due else sequence.num_pending
