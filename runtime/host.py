"""The machine that a process runs on."""

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_M_ARENA_MAX = -8  # malloc.h of glibc


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's name; on ARM, where it has none, the numbers of its maker and part."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return "unknown CPU"
    said = {
        name.strip(): value.strip()
        for name, separator, value in (line.partition(":") for line in lines)
        if separator
    }
    parts = [said.get(name) for name in ("CPU implementer", "CPU part")]
    return said.get("model name") or " ".join(part for part in parts if part) or "unknown CPU"


def set_aside_what_is_loaded() -> None:
    """Keep Python's garbage collector from looking at what is loaded now, which stays.

    A full collection looks at every object: with a world of 100,000 documents one turn in 600
    waited 0.1 s for it (`persona bench rag`). What was set aside before and is garbage by now is
    freed.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


@contextmanager
def without_collections() -> Iterator[None]:
    """Keeps Python's garbage collector from looking for garbage where much is made to stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def has_set_aside() -> bool:
    """Whether anything is set aside."""
    return gc.get_freeze_count() > 0


def use_one_arena() -> None:
    """Have all threads allocate from one arena of glibc, unless the environment says otherwise.

    Else each new engine's thread gets an arena of its own, and what a closed one left in another's
    is never reused: 20% more memory after five reloads, none with this.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)
