"""A model repository: numbered versions of a bundle, and `latest`, which servers follow.

A version is a branch `feature/model-vN`. Whoever publishes claims the next free N, so that no two
write the same one. A version is whole when its bundle.json is there and names files that lie beside
it; only a whole one is promoted or pulled. What kinds of repository there are says export/address.
"""

import re
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from export.errors import ExportError, os_error_in_words
from heads.bundle import FileEntry

LATEST = "latest"
CARD = "README.md"

_VERSION = "feature/model-v"
_SHORT = re.compile(r"v?([1-9]\d{0,8})")


class RemoteError(ExportError):
    """A model repository cannot be read or written as asked; `latest` is what it was."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file to publish: its path in the repository (`LICENSES/NOTICE.txt`) and what it holds."""

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        if isinstance(self.content, bytes):
            return len(self.content)
        return self.content.stat().st_size


class Snapshot(Protocol):
    """The files of one commit: they stay what they are, wherever branches go.

    Methods raise RemoteError where the repository cannot be read.
    """

    @property
    def subject(self) -> str:
        """Address and revision, for people."""

    @property
    def commit(self) -> str:
        """The revision that never moves."""

    def paths(self) -> Set[str]:
        """All files of the commit."""

    def read(self, path: str) -> bytes:
        """A small file of the commit."""

    def entry(self, path: str) -> FileEntry:
        """Size and hash of a file of the commit as it lies in the repository."""

    def fetch(self, path: str, folder: Path) -> None:
        """Writes a file of the commit to `folder / path`."""


class Remote(Protocol):
    """A model repository. Methods raise RemoteError."""

    @property
    def address(self) -> str:
        """As given, without secrets."""

    @property
    def name(self) -> str:
        """What a folder made from it is called."""

    def versions(self) -> list[int]:
        """The numbers that are taken, rising; not all of them need be whole."""

    def snapshot(self, revision: str) -> Snapshot:
        """What the branch or commit `revision` is at this moment."""

    def publish(self, files: Sequence[Upload]) -> int:
        """Claims the next number and writes the version; on any failure the claim is given up."""

    def promote(self, snapshot: Snapshot) -> bool:
        """Makes `latest` exactly these files, in one step; False if it has them already."""


def branch_of(number: int) -> str:
    """The branch of a version."""
    return f"{_VERSION}{number}"


def number_of(branch: str) -> int | None:
    """The version that a branch holds, if its name is that of one."""
    number = branch.removeprefix(_VERSION)
    return int(number) if number != branch and re.fullmatch(r"[1-9]\d*", number) else None


def numbers_of(branches: Sequence[str] | Set[str]) -> list[int]:
    """The versions among branches, rising."""
    return sorted(number for branch in branches if (number := number_of(branch)) is not None)


def revision_of(text: str) -> str:
    """The branch that `v3` and `3` are short for; anything else as it is."""
    short = _SHORT.fullmatch(text)
    return branch_of(int(short[1])) if short else text


def unknown_revision(address: str, revision: str, known: Sequence[str] | Set[str]) -> RemoteError:
    """What to say of a revision that is not there."""
    if revision == LATEST:
        remedy = f"run `persona promote {address}`, or name a version such as v1"
        return RemoteError(address, "a promoted version, `latest`", "none", remedy)
    versions = ", ".join(f"v{number}" for number in numbers_of(known)[-5:])
    found = f"the versions {versions}" if versions else "no version"
    return RemoteError(address, f"a revision {revision!r}", found, "name one that is there")


def promoted_meanwhile(address: str) -> RemoteError:
    """What to say when `latest` moved between looking and writing."""
    expected, found = "`latest` as it was a moment ago", "another promotion"
    return RemoteError(address, expected, found, "look what it is now, and promote again")


@contextmanager
def os_errors_told(subject: str | Path, expected: str, remedy: str) -> Iterator[None]:
    """An OSError inside becomes a RemoteError that says the same in a sentence."""
    try:
        yield
    except OSError as error:
        raise RemoteError(subject, expected, os_error_in_words(error), remedy) from error
