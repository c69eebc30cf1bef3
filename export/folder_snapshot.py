"""A version in a model repository that is a plain folder, and how its files are copied."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from pathlib import Path

from export.remote import Upload, os_errors_told
from export.reporter import Reporter
from heads.bundle import MANIFEST, FileEntry, file_sha256

READ = "a folder that can be read"
MEND = "free some space, or check the path and your rights to it"

_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """A version's folder."""

    subject: str
    commit: str
    folder: Path
    reporter: Reporter

    def paths(self) -> Set[str]:
        """Files that are wholly there."""
        with os_errors_told(self.subject, READ, MEND):
            files = [path for path in self.folder.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.folder)) for path in files} - {beside(MANIFEST)}

    def read(self, path: str) -> bytes:
        """A small file."""
        with os_errors_told(self.subject, READ, MEND):
            return (self.folder / path).read_bytes()

    def entry(self, path: str) -> FileEntry:
        """Size and hash of a file."""
        file = self.folder / path
        with os_errors_told(self.subject, READ, MEND):
            size = file.stat().st_size
            done = self.reporter.stage(f"verifying {path}", size)
            return FileEntry(path, size, file_sha256(file, done))

    def fetch(self, path: str, folder: Path) -> None:
        """Copies a file."""
        with os_errors_told(self.subject, "a file, and room for it", MEND):
            done = self.reporter.stage(f"downloading {path}", (self.folder / path).stat().st_size)
            write_file(Upload(path, self.folder / path), folder / path, done)


def beside(name: str) -> str:
    """What a file is called until it is wholly there."""
    return f".{name}.tmp"


def write_file(file: Upload, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Copies, telling of bytes since the last call. Raises OSError."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(file.content, bytes):
        target.write_bytes(file.content)
        return
    with file.content.open("rb") as source, target.open("wb") as written:
        while block := source.read(_BLOCK):
            written.write(block)
            on_bytes(len(block))
