"""Model repositories for tests, each a real one, and bundles to publish there."""

import hashlib
import os
import random
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from export.remote import LATEST, number_of
from tests.export.bundles import Recorder
from tests.export.hub_server import ATTRIBUTES, TOKEN, Blob, Hub, Repo
from tests.heads.bundles import write_bundle

NAME = "team/npc"
NOTICE = "LICENSES/NOTICE.txt"

Files = Mapping[str, bytes]


class Repository(Protocol):
    """What a test sees of a model repository, and does to it behind the program's back."""

    address: str

    def branches(self) -> dict[str, dict[str, bytes]]:
        """The files of every branch."""

    def put(self, branch: str, files: Files) -> None:
        """Makes a branch hold these files, as if someone had done it by hand."""


@dataclass
class FolderRepository:
    root: Path
    address: str = ""

    def __post_init__(self) -> None:
        self.root.mkdir()
        self.address = str(self.root)

    def branches(self) -> dict[str, dict[str, bytes]]:
        folders = (self.root / "versions").glob("*")
        found = {folder.name.replace("-", "/", 1): contents(folder) for folder in folders}
        if (self.root / LATEST).exists():
            found[LATEST] = found[(self.root / LATEST).read_text().strip()]
        return found

    def put(self, branch: str, files: Files) -> None:
        if branch == LATEST:
            branch = "feature/model-v900"
            (self.root / LATEST).write_text(branch)
        write_files(self.root / "versions" / branch.replace("/", "-", 1), files)


@dataclass
class GitRepository:
    root: Path
    address: str = ""

    def __post_init__(self) -> None:
        subprocess.run(["git", "init", "-q", "--bare", str(self.root)], check=True)
        self.git("config", "uploadpack.allowFilter", "true")
        self.address = f"git+{self.root}"

    def git(self, *arguments: str, stdin: bytes = b"") -> bytes:
        command = ["git", f"--git-dir={self.root}", *arguments]
        return subprocess.run(command, input=stdin, capture_output=True, check=True).stdout

    def branches(self) -> dict[str, dict[str, bytes]]:
        names = self.git("for-each-ref", "--format=%(refname:short)").decode().split()
        return {name: self._files(name) for name in names}

    def _files(self, branch: str) -> dict[str, bytes]:
        paths = self.git("ls-tree", "-r", "--name-only", branch).decode().split("\n")
        return {path: self.git("cat-file", "blob", f"{branch}:{path}") for path in paths if path}

    def put(self, branch: str, files: Files) -> None:
        lines = [f"commit refs/heads/{branch}\ncommitter a <a@b> 0 +0000\ndata 1\nx\ndeleteall\n"]
        stream = lines[0].encode()
        for path, content in files.items():
            stream += f'M 100644 inline "{path}"\ndata {len(content)}\n'.encode() + content + b"\n"
        self.git("fast-import", "--quiet", "--force", stdin=stream)


@dataclass
class HubRepository:
    hub: Hub
    address: str = f"hf:{NAME}"

    def __post_init__(self) -> None:
        self.hub.repos[NAME] = Repo()

    @property
    def repo(self) -> Repo:
        return self.hub.repos[NAME]

    def branches(self) -> dict[str, dict[str, bytes]]:
        with self.hub.lock:
            branches = dict(self.repo.branches)
        return {
            name: {p: blob.content for p, blob in commit.files.items() if p != ATTRIBUTES}
            for name, commit in branches.items()
            if name != "main"
        }

    def put(self, branch: str, files: Files) -> None:
        blobs = {path: Blob(raw, path.endswith((".gguf", ".onnx"))) for path, raw in files.items()}
        for blob in blobs.values():
            self.hub.store(blob.content)
        with self.hub.lock:
            self.repo.commit(branch, "by hand", blobs)


def contents(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write_files(folder: Path, files: Files) -> None:
    """A folder that holds these and nothing else that matters."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


def versions(repository: Repository) -> list[int]:
    """Numbers of the versions that are there, whole or not."""
    return sorted(n for branch in repository.branches() if (n := number_of(branch)) is not None)


def make_bundle(
    folder: Path, seed: int = 0, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    """A bundle with a notice; its model is random bytes of `seed`, its heads never change."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.gguf").write_bytes(random.Random(seed).randbytes(200_000))
    notice = folder / NOTICE
    notice.parent.mkdir(exist_ok=True)
    notice.write_text("Gemma is provided under and subject to the Gemma Terms of Use.\n")
    raw = notice.read_bytes()
    entry = {"path": NOTICE, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}

    def add(manifest: dict[str, Any]) -> None:
        manifest["files"].append(entry)
        manifest["training"] = {"seed": seed}
        change(manifest)

    return write_bundle(folder, change=add)


def bundle_files(folder: Path) -> dict[str, bytes]:
    """What a pull of the bundle in `folder` shall give."""
    return {path: raw for path, raw in contents(folder).items() if not path.startswith(".")}


def without_card(files: Files) -> dict[str, bytes]:
    """A version's files without the README.md that publishing adds."""
    return {path: raw for path, raw in files.items() if path != "README.md"}


@dataclass
class Listener(Recorder):
    """Remembers, and does something the first time that a stage or a line begins in a given way."""

    when: str = ""
    then: Callable[[], None] = lambda: None
    has_fired: bool = False
    lines: list[str] = field(default_factory=list)

    def stage(self, name: str, total: int | None = None) -> Callable[[int], None]:
        self._hear(name)
        return super().stage(name, total)

    def say(self, text: str) -> None:
        self._hear(text)
        super().say(text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        yield

    def _hear(self, text: str) -> None:
        if self.when and text.startswith(self.when) and not self.has_fired:
            self.has_fired = True
            self.then()

    @property
    def downloads(self) -> list[str]:
        """Files that were asked for."""
        said = [*self.stages, *self.lines]
        return [text.split()[1] for text in said if text.startswith("downloading ")]


def environment(cache: Path, hub: Hub) -> dict[str, str]:
    """Variables that keep a command away from the user's own files and from the network."""
    return {
        "PERSONA_CACHE": str(cache),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "HF_ENDPOINT": hub.endpoint,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(cache / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
