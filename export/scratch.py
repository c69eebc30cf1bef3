"""Folders for the time of one command; what a killed one left, the next removes.

In the user's cache, not in /tmp, which is often memory: a copy of a model has to fit.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from heads.bundle import cache_folder


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that nobody else may read, gone after the block. Raises OSError."""
    parent = cache_folder() / "scratch"
    parent.mkdir(parents=True, exist_ok=True)
    with (parent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until ours is marked as in use
        for left in parent.glob("persona-*"):
            _remove_if_left(left)
        folder = Path(tempfile.mkdtemp(prefix="persona-", dir=parent))
        in_use = os.open(folder, os.O_RDONLY)
        fcntl.flock(in_use, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(in_use)


def _remove_if_left(folder: Path) -> None:
    with suppress(FileNotFoundError):  # its owner was faster
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        finally:
            os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)
