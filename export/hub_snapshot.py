"""A commit of a model repository on the Hugging Face Hub."""

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from export.hub_errors import hub_errors_told
from export.reporter import TransferReporter
from heads.bundle import FileEntry

if TYPE_CHECKING:
    from huggingface_hub import HfApi, RepoFile

ATTRIBUTES = ".gitattributes"
"""The Hub's own file in every repository: which files go to large storage."""


@dataclass(frozen=True, slots=True)
class HubSnapshot:
    """A commit on the Hub."""

    subject: str
    commit: str
    repository: str
    files: Mapping[str, "RepoFile"]
    api: "HfApi"
    reporter: TransferReporter

    def paths(self) -> Set[str]:
        """Files of the commit, the Hub's own .gitattributes left out."""
        return self.files.keys() - {ATTRIBUTES}

    def read(self, path: str) -> bytes:
        """A small file."""
        with tempfile.TemporaryDirectory() as folder:
            self._download(path, Path(folder))
            return (Path(folder) / path).read_bytes()

    def entry(self, path: str) -> FileEntry:
        """What the Hub knows of a file; one outside LFS is small, and downloaded."""
        file = self.files[path]
        if file.lfs is not None:
            return FileEntry(path, file.lfs.size, file.lfs.sha256)
        content = self.read(path)
        return FileEntry(path, len(content), hashlib.sha256(content).hexdigest())

    def fetch(self, path: str, folder: Path) -> None:
        """Downloads a file; the client draws the bar."""
        self.reporter.say(f"downloading {path}")
        with self.reporter.aside():
            self._download(path, folder)
        shutil.rmtree(folder / ".cache")  # the client's notes on what it downloaded

    def _download(self, path: str, folder: Path) -> None:
        with hub_errors_told(f"{self.subject} {path}"):
            self.api.hf_hub_download(self.repository, path, revision=self.commit, local_dir=folder)
