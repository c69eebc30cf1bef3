"""Counts of the engine, for metrics and for tests that nothing is left over."""

from dataclasses import dataclass

from runtime.prefix_store import PrefixStore
from runtime.scheduler import Scheduler
from runtime.swap_space import SwapSpace


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What the engine holds at one moment."""

    num_waiting: int
    num_running: int
    num_claimed_sequences: int
    """Sequence ids in use: more than run, if some were lost."""
    num_free_cells: int
    num_residents: int
    """Finished sequences whose cells are kept."""
    num_resident_cells: int
    num_preempted: int = 0
    """How often a sequence gave its cells to an older one."""
    num_stored_bytes: int = 0
    """Prefixes on disk."""
    num_restored: int = 0
    num_unusable: int = 0
    """Prefixes read back from disk, and those that could not be used."""
    num_swapped: int = 0
    num_swapped_bytes: int = 0
    """Conversations in host memory, for want of room in the cache, and what they take."""
    num_swapped_in: int = 0
    """How often one came back."""


def stats_of(scheduler: Scheduler, prefixes: PrefixStore | None, swap: SwapSpace) -> EngineStats:
    """Counts at this moment; the caller sees to it that they hold still."""
    return EngineStats(
        len(scheduler.waiting),
        len(scheduler.running),
        scheduler.num_claimed,
        scheduler.num_free_cells,
        scheduler.num_residents,
        scheduler.num_resident_cells,
        scheduler.num_preempted,
        prefixes.num_bytes if prefixes else 0,
        prefixes.num_restored if prefixes else 0,
        prefixes.num_unusable if prefixes else 0,
        len(swap),
        swap.num_bytes,
        swap.num_restored,
    )
