"""Evaluated prefixes on disk: a restarted server, or one whose cache is full, reads them back.

A file is named by all that its contents depend on, and begins with a checksum of that and of them.
Nothing here is needed: whatever is missing, damaged or cannot be written is evaluated again.
"""

import hashlib
import logging
import os
import threading
import time
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

logger = logging.getLogger(__name__)

SUFFIX = ".kv"
_BESIDE = ".tmp"
_DIGEST_BYTES = hashlib.sha256().digest_size
_MAX_QUEUED_BYTES = 256 * 10**6
"""Of states that wait to be written: they are copies in memory."""
_ABANDONED_S = 3_600.0
"""Seconds after which a half-written file is nobody's any more."""


class PrefixStore:
    """At most `max_bytes` in `folder`, those longest out of use deleted first.

    `key` names whatever else a prefix's state depends on: model, context settings, llama.cpp.
    Processes may share the folder. One thread asks and puts; another writes the files.
    """

    def __init__(self, folder: Path, key: str, max_bytes: int) -> None:
        self._folder, self._key, self._max_bytes = folder, key.encode(), max_bytes
        self._lock = threading.Lock()  # guards `_sizes`, `_coming` and `_uses`
        self._sizes: dict[str, int] = {}
        self._coming: dict[str, int] = {}
        self._uses: dict[str, int] = {}
        """When files were last used that were not read for it, in ns since the epoch."""
        self._writer = ThreadPoolExecutor(1, "prefixes")
        self._is_writable = True
        self.num_restored = 0
        """States that the cache took back."""
        self.num_unusable = 0
        self._make_room(0)

    @property
    def num_bytes(self) -> int:
        """Size of all files."""
        with self._lock:
            return sum(self._sizes.values())

    def contains(self, tokens: Sequence[int]) -> bool:
        """Whether there is a file for these tokens."""
        with self._lock:
            return self._name(tokens) in self._sizes

    def read(self, tokens: Sequence[int]) -> bytes | None:
        """The state of these tokens; None, and no longer contained, if it can't be used."""
        name = self._name(tokens)
        path = self._folder / name
        try:
            raw = path.read_bytes()
        except OSError as error:
            self._drop(name, error.strerror or "cannot be read")
            return None
        with suppress(OSError):  # a folder that is only read knows no last use
            os.utime(path, ns=(time.time_ns(),) * 2)
        digest, state = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != self._digest(name, state):
            self._drop(name, "its checksum is wrong")
            return None
        return state

    def note_use(self, tokens: Sequence[int]) -> None:
        """Count the state of these tokens as used just now, though nobody had to read it."""
        name = self._name(tokens)
        with self._lock:
            if name in self._sizes:
                self._uses[name] = time.time_ns()

    def wants(self, tokens: Sequence[int]) -> bool:
        """Whether a state of these tokens is to be put: it is neither there nor on its way."""
        name = self._name(tokens)
        with self._lock:
            is_full = sum(self._coming.values()) >= _MAX_QUEUED_BYTES
            is_known = name in self._sizes or name in self._coming
            return self._is_writable and not is_full and not is_known

    def put(self, tokens: Sequence[int], state: bytes) -> None:
        """Write a state that is wanted, soon, if it is within the bound.

        Raises RuntimeError if the thread that writes can't be started.
        """
        name = self._name(tokens)
        if not 0 < len(state) <= self._max_bytes - _DIGEST_BYTES:
            return
        with self._lock:
            self._coming[name] = len(state)
        try:
            self._writer.submit(self._write, name, state)
        except (MemoryError, RuntimeError):
            self._comes_no_more(name)
            raise

    def refuse(self, tokens: Sequence[int], why: str) -> None:
        """Delete the state of these tokens, which proved useless."""
        self._drop(self._name(tokens), why)

    def close(self) -> None:
        """Wait until all that was put is written."""
        self._writer.shutdown()
        self._date_uses()

    def _write(self, name: str, state: bytes) -> None:
        path = self._folder / name
        size = _DIGEST_BYTES + len(state)
        try:
            self._make_room(size)
            self._folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._folder, suffix=_BESIDE, delete=False) as file:
                try:
                    file.write(self._digest(name, state))
                    file.write(state)
                    file.close()
                    Path(file.name).replace(path)
                except OSError:
                    _unlink(Path(file.name))
                    raise
            with self._lock:
                self._sizes[name] = size
        except FileNotFoundError:  # somebody cleared the folder meanwhile
            logger.warning("%s: gone before it was whole; this prefix is not kept", path)
        except OSError as error:
            logger.warning("%s: %s; no more prefixes are kept", path, error.strerror)
            self._is_writable = False
        finally:
            self._comes_no_more(name)

    def _comes_no_more(self, name: str) -> None:
        # one whose thread could not be started may still be written by the next that can
        with self._lock:
            self._coming.pop(name, None)

    def _make_room(self, size: int) -> None:
        """Delete what was used longest ago until `size` bytes fit, other processes' files too."""
        self._date_uses()
        found = _list(self._folder)
        excess = sum(found.values()) + size - self._max_bytes
        for name in list(found):
            if excess <= 0:
                break
            excess -= found.pop(name)
            _unlink(self._folder / name)
        with self._lock:
            self._sizes = found

    def _date_uses(self) -> None:
        """Let the files tell their last use."""
        with self._lock:
            uses, self._uses = self._uses, {}
        for name, time_ns in uses.items():
            with suppress(OSError):  # gone, or in a folder that is only read
                os.utime(self._folder / name, ns=(time_ns, time_ns))

    def _drop(self, name: str, why: str) -> None:
        self.num_unusable += 1
        logger.warning("%s: %s; it is evaluated again", self._folder / name, why)
        with self._lock:
            self._sizes.pop(name, None)
        _unlink(self._folder / name)

    def _name(self, tokens: Sequence[int]) -> str:
        named = hashlib.sha256(self._key + b"\0" + array("i", tokens).tobytes())
        return named.hexdigest()[:40] + SUFFIX

    @staticmethod
    def _digest(name: str, state: bytes) -> bytes:
        digest = hashlib.sha256(name.encode())
        digest.update(state)
        return digest.digest()


def _list(folder: Path) -> dict[str, int]:
    """Sizes of the files in `folder`, those longest out of use first; abandoned ones deleted."""
    found: list[tuple[float, str, int]] = []
    with suppress(OSError):
        for path in folder.iterdir():
            with suppress(OSError):  # gone since
                status = path.stat()
                if path.suffix == SUFFIX:
                    found.append((status.st_mtime, path.name, status.st_size))
                elif path.suffix == _BESIDE and time.time() - status.st_mtime > _ABANDONED_S:
                    _unlink(path)
    return {name: size for _, name, size in sorted(found)}


def _unlink(path: Path) -> None:
    """Delete a file, if that can be done: nothing depends on it."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
