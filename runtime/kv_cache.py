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

    def keep_prefixes(self, sequence: EngineSequence, count: int) -> None:
        """Store the prefixes of a request that the `count` tokens evaluated just now complete."""
        if self._prefixes is None:
            return
        spare, before = self._context.config.n_seq_max - 1, sequence.num_evaluated - count
        for end in sequence.request.prefixes:
            if not before < end <= sequence.num_evaluated:
                continue
            assert sequence.seq_id is not None, "it runs"
            tokens = sequence.tokens[:end]
            if self._prefixes.wants(tokens) and self._context.holds(sequence.seq_id, end):
                self._context.share(sequence.seq_id, spare, end)
                self._prefixes.put(tokens, self._context.save(spare))
                self._context.forget(spare)

    def arrange(self, steps: Sequence[CacheStep], admitted: EngineSequence | None = None) -> None:
        """Do `steps` in order, those of an admission for the sequence that is `admitted`."""
        for step in steps:
            if isinstance(step, SwapOut):
                self._swap_out(step)
            elif isinstance(step, (Restore, SwapIn)):
                assert admitted is not None, "only an admission restores"
                is_whole = (
                    self._swap_in(step) if isinstance(step, SwapIn) else self._read(step, admitted)
                )
                if not is_whole:
                    self._begin_anew(admitted)
            elif isinstance(step, Share):
                self._context.share(step.source, step.target, step.end)
            else:
                self._context.forget(step.seq_id, step.start)

    def _swap_out(self, step: SwapOut) -> None:
        self._context.forget(step.seq_id, len(step.tokens))
        try:
            self._swap.put(step.tokens, self._context.save(step.seq_id))
        except MemoryError:
            logger.warning("no memory for a conversation of %d tokens", len(step.tokens))

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
        if not is_whole:
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
