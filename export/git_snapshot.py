"""A commit of a model repository that git reaches."""

import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from export.git_command import Git
from export.remote import RemoteError, os_errors_told
from export.reporter import Reporter
from heads.bundle import FileEntry, file_sha256

MEND = "free some space, or set PERSONA_CACHE to a folder that has some"

_LFS = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class GitSnapshot:
    """A commit in the scratch repository; what is not there yet comes when it is asked for."""

    subject: str
    commit: str
    git: Git
    blobs: Mapping[str, str]
    """Object ids by path."""
    missing: set[str]
    """Ids of what has not been fetched yet."""
    reporter: Reporter

    def paths(self) -> Set[str]:
        """Files of the commit's tree."""
        return self.blobs.keys()

    def read(self, path: str) -> bytes:
        """A small file."""
        with tempfile.TemporaryDirectory(dir=self.git.folder) as folder:
            self.fetch(path, Path(folder))
            return (Path(folder) / path).read_bytes()

    def entry(self, path: str) -> FileEntry:
        """Size and hash of a file, which has to be fetched for that."""
        with tempfile.TemporaryDirectory(dir=self.git.folder) as folder:
            self.fetch(path, Path(folder))
            file = Path(folder) / path
            return FileEntry(path, file.stat().st_size, file_sha256(file))

    def fetch(self, path: str, folder: Path) -> None:
        """Fetches a file unless it came with the commit, and writes it."""
        target = folder / path
        with os_errors_told(self.subject, "room for its files", MEND):
            self._bring(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as output:
                self.git.run("cat-file", "blob", self.blobs[path], output=output)
            with target.open("rb") as written:
                is_pointer = written.read(len(_LFS)) == _LFS
        if is_pointer:
            remedy = "publish it without LFS; a repository on the Hugging Face Hub is hf:owner/name"
            raise RemoteError(f"{self.subject} {path}", "the file", "a Git LFS pointer", remedy)

    def _bring(self, path: str) -> None:
        blob = self.blobs[path]
        if blob in self.missing:
            done = self.reporter.stage(f"downloading {path}")
            what = ("--no-tags", "--no-write-fetch-head", "--filter=blob:none", "origin", blob)
            self.git.transfer("fetch", "--progress", *what, on_bytes=done)
            self.missing.discard(blob)
