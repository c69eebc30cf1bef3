"""What a process asks of the machine that it runs on."""

import gc
import os
import subprocess
import sys
import weakref

import pytest

from runtime.host import has_set_aside, set_aside_what_is_loaded, without_collections

THREADS = """
import ctypes, threading
from runtime.host import use_one_arena
use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
barrier = threading.Barrier(4)
def work():
    barrier.wait()
    for _ in range(100):
        libc.malloc(5_000)
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fdopen(1, b"w")))
libc.fflush(None)
"""


def num_arenas(**environment: str) -> int:
    clean = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    command = [sys.executable, "-c", THREADS]
    done = subprocess.run(command, capture_output=True, env=clean | environment, check=True)
    return done.stdout.count(b"<heap nr=")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="arenas are glibc's")
def test_all_threads_share_one_arena_unless_the_environment_says_otherwise() -> None:
    assert num_arenas() == 1
    assert num_arenas(MALLOC_ARENA_MAX="8") > 1


class Ring:
    """Refers to itself: only the collector can free it."""

    def __init__(self) -> None:
        self.itself = self


def test_what_is_set_aside_is_not_collected_until_it_is_set_aside_anew() -> None:
    try:
        ring = Ring()
        alive = weakref.ref(ring)
        set_aside_what_is_loaded()
        assert has_set_aside()
        del ring
        gc.collect()
        assert alive() is not None
        set_aside_what_is_loaded()
        assert alive() is None
    finally:
        gc.unfreeze()
    assert not has_set_aside()


@pytest.mark.parametrize("is_enabled", [True, False])
def test_the_collector_rests_meanwhile_and_is_afterwards_as_it_was(is_enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if is_enabled else gc.disable)()
        with without_collections():
            assert not gc.isenabled()
        assert gc.isenabled() == is_enabled
    finally:
        (gc.enable if before else gc.disable)()
