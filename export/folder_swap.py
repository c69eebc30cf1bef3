"""Replaces a folder as a whole: built beside it, swapped in at the end, or nothing changes.

Where the folder is a link, what it leads to is replaced, and the link stays.

.NAME.lock    held by the one that builds; the operating system frees it if that one is killed
.NAME.new     what is being built
.NAME.old     the previous folder, for the moment of the swap
"""

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from export.errors import BuildError, os_error_in_words


@contextmanager
def locked(target: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the right to replace `target`, and clears away what a killed build left.

    Waits for another build of the same target, calling `on_wait` first.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _beside(target, "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        _recover(target)
        yield


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target` when the block ends well, and goes when it does not."""
    target = target.resolve()
    new, old = _beside(target, "new"), _beside(target, "old")
    new.mkdir()
    try:
        yield new
        if target.exists():
            target.rename(old)
        try:
            new.rename(target)
        except BaseException:
            _recover(target)
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def write_errors_told(target: Path) -> Iterator[None]:
    """An OSError inside becomes a BuildError that says the same in a sentence."""
    try:
        yield
    except OSError as error:
        remedy = "free some space, or choose another place with --out or PERSONA_CACHE"
        found = os_error_in_words(error)
        raise BuildError(target, "room and rights to write", found, remedy) from error


def refuse_foreign(target: Path, own: frozenset[str]) -> None:
    """Raises BuildError if replacing `target` would delete a file that no build wrote."""
    if not target.exists():
        return
    if not target.is_dir():
        raise BuildError(target, "a folder", "a file", "choose another --out")
    if foreign := sorted({path.name for path in target.iterdir()} - own):
        remedy = "choose another --out: the whole folder would be replaced"
        raise BuildError(target, "an empty folder or a bundle", ", ".join(foreign[:5]), remedy)


def _recover(target: Path) -> None:
    old = _beside(target, "old")
    if old.exists() and not target.exists():
        old.rename(target)  # killed between the two renames
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(_beside(target, "new"), ignore_errors=True)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")
