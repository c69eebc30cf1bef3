"""A model repository in a plain folder, such as one on a shared disk.

ADDRESS/versions/feature-model-vN/    a version; `mkdir` claims it, and bundle.json comes last by a
                                      rename, so a version without one is half made
ADDRESS/latest                        a line with the name of the promoted version's branch
ADDRESS/.lock                         held for the moment of a promotion

A version never changes once it is whole, so its branch is its commit.
"""

import fcntl
import shutil
from collections.abc import Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from export.folder_snapshot import MEND, READ, FolderSnapshot, beside, write_file
from export.remote import (
    LATEST,
    RemoteError,
    Snapshot,
    Upload,
    branch_of,
    number_of,
    numbers_of,
    os_errors_told,
    unknown_revision,
)
from export.reporter import Reporter
from heads.bundle import MANIFEST

_VERSIONS = "versions"
_WRITE = "room and rights to write"


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A model repository in `root`."""

    root: Path
    reporter: Reporter

    @property
    def address(self) -> str:
        """The path."""
        return str(self.root)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.root.name

    def versions(self) -> list[int]:
        """Numbers that are taken; none if nothing was published yet."""
        self._refuse_missing(self.root)
        return numbers_of(self._branches())

    def snapshot(self, revision: str) -> FolderSnapshot:
        """What `revision` is now."""
        self._refuse_missing(self.root)
        branch = self._latest() if revision == LATEST else revision
        if branch is None or number_of(branch) is None or not self._folder(branch).is_dir():
            raise unknown_revision(self.address, revision, self._branches())
        subject = f"{self.address} {revision}"
        return FolderSnapshot(subject, branch, self._folder(branch), self.reporter)

    def publish(self, files: Sequence[Upload]) -> int:
        """Copies files into a folder of their own; the last act names bundle.json."""
        self._refuse_foreign()
        with os_errors_told(self.address, _WRITE, MEND):
            number = self._claim()
            folder = self._folder(branch_of(number))
            try:
                self._fill(folder, files)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        return number

    def promote(self, snapshot: Snapshot) -> bool:
        """Replaces `latest` by a rename."""
        with os_errors_told(self.address, _WRITE, MEND), (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self._latest() == snapshot.commit:
                return False
            new = self.root / beside(LATEST)
            new.write_text(f"{snapshot.commit}\n", encoding="utf-8")
            new.replace(self.root / LATEST)
        return True

    def _claim(self) -> int:
        (self.root / _VERSIONS).mkdir(parents=True, exist_ok=True)
        number = max(numbers_of(self._branches()), default=0)
        while True:
            number += 1
            try:
                self._folder(branch_of(number)).mkdir()
            except FileExistsError:
                continue
            return number

    def _fill(self, folder: Path, files: Sequence[Upload]) -> None:
        for file in files:
            done = self.reporter.stage(f"uploading {file.path}", file.size)
            is_manifest = file.path == MANIFEST
            write_file(file, folder / (beside(MANIFEST) if is_manifest else file.path), done)
        (folder / beside(MANIFEST)).rename(folder / MANIFEST)

    def _branches(self) -> Set[str]:
        with os_errors_told(self.address, READ, MEND):
            if not (self.root / _VERSIONS).is_dir():
                return set()
            names = [path.name for path in (self.root / _VERSIONS).iterdir()]
        return {name.replace("-", "/", 1) for name in names}

    def _folder(self, branch: str) -> Path:
        return self.root / _VERSIONS / branch.replace("/", "-", 1)

    def _latest(self) -> str | None:
        try:
            return (self.root / LATEST).read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            found, remedy = str(error), f"run `persona promote {self.address}`"
            raise RemoteError(self.root / LATEST, "a version's name", found, remedy) from error

    def _refuse_missing(self, folder: Path) -> None:
        if not folder.is_dir():
            remedy = "check the path; a repository elsewhere is written hf:owner/name or git+URL"
            raise RemoteError(folder, "a folder", "a file" if folder.exists() else "none", remedy)

    def _refuse_foreign(self) -> None:
        """A mistyped path must not scatter versions over someone's files."""
        self._refuse_missing(self.root.parent)
        with os_errors_told(self.address, READ, MEND):
            if not self.root.exists():
                return
            self._refuse_missing(self.root)
            names = sorted(path.name for path in self.root.iterdir())
            # listed first: a publisher beside this one makes `versions` before anything else
            if names and not (self.root / _VERSIONS).is_dir():
                expected, found = "a model repository or an empty folder", ", ".join(names[:5])
                raise RemoteError(self.root, expected, found, "name another folder")
