"""What the scheduler decides about the KV cache, done: cells shared, freed, filled and copied out.

On the engine's thread. What cannot be kept or brought back is evaluated again.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from runtime.llama_backend import LlamaContext
from runtime.plan import CacheStep, Restore, Share, SwapIn, SwapOut
from runtime.prefix_store import PrefixStore
from runtime.sequence import EngineSequence
from runtime.swap_space import SwapSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Offload:
    """Where states are kept besides the KV cache.

    The prefixes that requests name, on disk; what the cache has no room for, in host memory.
    """

    prefixes: PrefixStore | None = None
    swap: SwapSpace = field(default_factory=SwapSpace)


class KvCache:
    """The cache of a context, and where its states go besides."""

    def __init__(self, context: LlamaContext, offload: Offload) -> None:
        self._context = context
        self._prefixes, self._swap = offload.prefixes, offload.swap

    def is_stored(self, tokens: Sequence[int]) -> bool:
        """Whether a prefix can be read back from disk."""
        return self._prefixes is not None and self._prefixes.contains(tokens)

    def keep_prefixes(self, sequence: EngineSequence, count: int) -> None:
        """Store the prefixes of a request that the `count` tokens evaluated just now complete."""
        if self._prefixes is None:
            return
        before = sequence.num_evaluated - count
        for end in sequence.request.prefixes:
            if not before < end <= sequence.num_evaluated:
                continue
            assert sequence.seq_id is not None, "it runs"
            tokens = sequence.tokens[:end]
            if self._prefixes.wants(tokens) and self._context.holds(sequence.seq_id, end):
                self._keep(self._prefixes, sequence.seq_id, tokens)

    def arrange(self, steps: Sequence[CacheStep], admitted: EngineSequence | None = None) -> None:
        """Do `steps` in order, those of an admission for the sequence that is `admitted`."""
        for step in steps:
            if isinstance(step, SwapOut):
                self._swap_out(step)
            elif isinstance(step, (Restore, SwapIn)):
                assert admitted is not None, "only an admission restores"
                if not self._bring_back(step, admitted):
                    self._begin_anew(admitted)
            elif isinstance(step, Share):
                self._context.share(step.source, step.target, step.end)
            else:
                self._context.forget(step.seq_id, step.start)
        if admitted is not None:
            self._note_uses(admitted)

    def _keep(self, prefixes: PrefixStore, seq_id: int, tokens: list[int]) -> None:
        """Store the first `tokens` of a sequence, by way of the spare one."""
        spare = self._context.config.n_seq_max - 1
        self._context.share(seq_id, spare, len(tokens))
        try:
            prefixes.put(tokens, self._context.save(spare))
        except (MemoryError, RuntimeError) as error:
            logger.warning("a prefix of %d tokens is not kept: %r", len(tokens), error)
        finally:
            self._context.forget(spare)

    def _note_uses(self, admitted: EngineSequence) -> None:
        """Count the prefixes that the cache had of a request: the store does not see them read."""
        if self._prefixes is None:
            return
        for end in admitted.request.prefixes:
            if end <= admitted.num_evaluated:
                self._prefixes.note_use(admitted.tokens[:end])

    def _swap_out(self, step: SwapOut) -> None:
        self._context.forget(step.seq_id, len(step.tokens))
        try:
            self._swap.put(step.tokens, self._context.save(step.seq_id))
        except MemoryError:
            logger.warning("no memory for a conversation of %d tokens", len(step.tokens))

    def _bring_back(self, step: Restore | SwapIn, admitted: EngineSequence) -> bool:
        """Whether an empty sequence now has what it is to begin with; else it is empty still."""
        try:
            return self._swap_in(step) if isinstance(step, SwapIn) else self._read(step, admitted)
        except MemoryError:
            logger.warning("no memory to bring %d tokens back; they are evaluated again", step.end)
            return False

    def _swap_in(self, step: SwapIn) -> bool:
        """Whether llama.cpp took a state back."""
        is_whole = self._fill(step.seq_id, step.state, step.end)
        if is_whole:
            self._swap.num_restored += 1
        else:
            logger.warning("llama.cpp does not take a state back; it is evaluated again")
        return is_whole

    def _read(self, step: Restore, sequence: EngineSequence) -> bool:
        """Whether a prefix could be read back from disk."""
        assert self._prefixes is not None, "something is stored"
        tokens = sequence.tokens[: step.end]
        state = self._prefixes.read(tokens)
        if state is None:
            return False
        is_whole = self._fill(step.seq_id, state, step.end)
        if is_whole:
            self._prefixes.num_restored += 1
        else:
            self._prefixes.refuse(tokens, "llama.cpp does not take it")
        return is_whole

    def _fill(self, seq_id: int, state: bytes, end: int) -> bool:
        """Whether an empty sequence now has the `end` tokens of a state; else it is empty still."""
        if self._context.restore(seq_id, state) and self._context.num_cells(seq_id) == end:
            return True
        self._context.forget(seq_id)
        return False

    @staticmethod
    def _begin_anew(sequence: EngineSequence) -> None:
        """What it was to begin with could not be used: all of it is evaluated."""
        sequence.num_evaluated = 0
        if not sequence.num_preempted:
            sequence.num_cached = 0
