"""How fast memory can be read: the roof over decoding, which reads all weights for each token.

As STREAM measures it (McCalpin 1995, "Memory bandwidth and machine balance in current high
performance computers"): arrays of at least four times the last caches, the best of several passes.
Its copy, and beside it a pass that only reads, as decoding does. numpy lets go of Python's lock in
both, so each thread works on a part of its own.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

NUM_PASSES = 5
LEAST_BYTES = 256 * 2**20
CACHE_FACTOR = 4
"""STREAM's rule for an array's size over that of the caches."""

_CPUS = Path("/sys/devices/system/cpu")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """Bytes a second; `copy` counts those read and those written, as STREAM does."""

    read: float
    copy: float

    @property
    def best(self) -> float:
        """The roof: no way of moving bytes that was tried is faster."""
        return max(self.read, self.copy)


def measure_bandwidth(num_bytes: int, num_threads: int) -> Bandwidth:
    """The best pass over arrays of `num_bytes` (a multiple of 8) in equal parts.

    Takes twice `num_bytes` of memory meanwhile.
    """
    source = np.ones(num_bytes // 8, np.int64)
    target = np.zeros_like(source)
    edges = np.linspace(0, len(source), num_threads + 1).astype(int)
    parts = [slice(start, end) for start, end in pairwise(edges)]

    def read(part: slice) -> None:
        np.bitwise_or.reduce(source[part])

    def copy(part: slice) -> None:
        np.copyto(target[part], source[part])

    with ThreadPoolExecutor(num_threads) as pool:

        def best_of(work: Callable[[slice], None]) -> float:
            """Seconds of the fastest pass."""
            seconds = []
            for _ in range(NUM_PASSES):
                start = time.perf_counter()
                list(pool.map(work, parts))
                seconds.append(time.perf_counter() - start)
            return min(seconds)

        return Bandwidth(source.nbytes / best_of(read), 2 * source.nbytes / best_of(copy))


def array_bytes(cache_bytes: int) -> int:
    """Size of an array that caches of `cache_bytes` can't hold; a multiple of 8."""
    return max(LEAST_BYTES, CACHE_FACTOR * cache_bytes // 8 * 8)


def last_cache_bytes(cpus: Path = _CPUS) -> int:
    """Bytes of all caches of the highest level together, as Linux tells them; 0 if it does not."""
    found: dict[tuple[int, str], int] = {}
    for index in cpus.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = (
                (index / name).read_text().strip() for name in ("level", "shared_cpu_list", "size")
            )
            found[int(level), shared] = int(size[:-1]) * _UNITS[size[-1]]
        except (OSError, LookupError, ValueError):
            continue  # virtual machines hide some of it
    highest = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == highest)
