"""Evaluated prefixes on disk: a restarted server, or one whose cache is full, reads them back.

A file is named by all that its contents depend on, and begins with a checksum of that and of them.
Nothing here is needed: whatever is missing, damaged or cannot be written is evaluated again.
"""

import hashlib
import logging
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import NamedTemporaryFile

logger = logging.getLogger(__name__)

SUFFIX = ".kv"
_BESIDE = ".tmp"
_DIGEST_BYTES = hashlib.sha256().digest_size
_MAX_QUEUED = 4


class PrefixStore:
    """At most `max_bytes` in `folder`, those longest out of use deleted first.

    `key` names whatever else a prefix's state depends on: model, context settings, llama.cpp. May
    be shared by processes. `contains`, `read` and `put` are called by one thread; files are written
    by another.
    """

    def __init__(self, folder: Path, key: str, max_bytes: int) -> None:
        self._folder, self._key, self._max_bytes = folder, key.encode(), max_bytes
        self._lock = threading.Lock()  # guards `_sizes` and `_coming`
        self._sizes = _list(folder)
        self._coming: set[str] = set()
        self._writer = ThreadPoolExecutor(1, "prefixes")
        self._is_writable = True
        self.num_restored = 0
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
            path.touch()
        except OSError as error:
            self._drop(name, error.strerror or "cannot be read")
            return None
        digest, state = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
        if digest != self._digest(name, state):
            self._drop(name, "its checksum is wrong")
            return None
        with self._lock:
            self._sizes[name] = self._sizes.pop(name, len(raw))  # used last
        self.num_restored += 1
        return state

    def wants(self, tokens: Sequence[int]) -> bool:
        """Whether a state of these tokens is to be put: it is neither there nor on its way."""
        if not self._is_writable or len(self._coming) >= _MAX_QUEUED:
            return False
        name = self._name(tokens)
        with self._lock:
            return name not in self._sizes and name not in self._coming

    def put(self, tokens: Sequence[int], state: bytes) -> None:
        """Write a state that is wanted, soon."""
        name = self._name(tokens)
        with self._lock:
            self._coming.add(name)
        self._writer.submit(self._write, name, state)

    def refuse(self, tokens: Sequence[int], why: str) -> None:
        """Delete the state of these tokens, which proved useless."""
        self._drop(self._name(tokens), why)

    def close(self) -> None:
        """Wait until all that was put is written."""
        self._writer.shutdown()

    def _write(self, name: str, state: bytes) -> None:
        path = self._folder / name
        size = _DIGEST_BYTES + len(state)
        try:
            if size > self._max_bytes:
                return
            self._make_room(size)
            self._folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._folder, suffix=_BESIDE, delete=False) as file:
                try:
                    file.write(self._digest(name, state))
                    file.write(state)
                    file.close()
                    Path(file.name).replace(path)
                except OSError:
                    Path(file.name).unlink(missing_ok=True)
                    raise
            with self._lock:
                self._sizes[name] = size
        except OSError as error:
            logger.warning("%s: %s; no more prefixes are kept", path, error.strerror)
            self._is_writable = False
        finally:
            with self._lock:
                self._coming.discard(name)

    def _make_room(self, size: int) -> None:
        with self._lock:
            excess = sum(self._sizes.values()) + size - self._max_bytes
            while excess > 0 and self._sizes:
                oldest = next(iter(self._sizes))
                excess -= self._sizes.pop(oldest)
                (self._folder / oldest).unlink(missing_ok=True)

    def _drop(self, name: str, why: str) -> None:
        self.num_unusable += 1
        logger.warning("%s: %s; it is evaluated again", self._folder / name, why)
        with self._lock:
            self._sizes.pop(name, None)
        (self._folder / name).unlink(missing_ok=True)

    def _name(self, tokens: Sequence[int]) -> str:
        named = hashlib.sha256(self._key + b"\0" + array("i", tokens).tobytes())
        return named.hexdigest()[:40] + SUFFIX

    @staticmethod
    def _digest(name: str, state: bytes) -> bytes:
        digest = hashlib.sha256(name.encode())
        digest.update(state)
        return digest.digest()


def _list(folder: Path) -> dict[str, int]:
    """Sizes of the files in `folder`, those longest out of use first; half-written ones deleted."""
    found: list[tuple[float, str, int]] = []
    try:
        for path in folder.iterdir():
            if path.suffix == _BESIDE:
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX:
                status = path.stat()
                found.append((status.st_mtime, path.name, status.st_size))
    except OSError:
        return {}
    return {name: size for _, name, size in sorted(found)}
