"""A model repository on any git remote.

Each version is a commit without parents, made in a scratch repository and pushed in one step: it is
there as a whole or not at all. Files are stored as they are, without Git LFS. From a server that
allows partial clones (most hosts do) only the files that are asked for are fetched.
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from export.git_command import Git
from export.git_snapshot import MEND, GitSnapshot
from export.remote import (
    LATEST,
    RemoteError,
    Snapshot,
    Upload,
    branch_of,
    numbers_of,
    os_errors_told,
    promoted_meanwhile,
    unknown_revision,
)
from export.reporter import Reporter
from export.scratch import scratch_folder

_HEADS = "refs/heads/"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOBODY = ("-c", "user.name=persona publish", "-c", "user.email=persona@localhost")


@dataclass(frozen=True, slots=True)
class RemoteGit:
    """A model repository that git reaches."""

    name: str
    git: Git
    reporter: Reporter

    @property
    def address(self) -> str:
        """The URL without password."""
        return f"git+{self.git.shown}"

    def versions(self) -> list[int]:
        """Numbers of the branches that are there."""
        return numbers_of(self._branches().keys())

    def snapshot(self, revision: str) -> GitSnapshot:
        """Fetches the commit that `revision` is now, its files only if the server insists."""
        branches = self._branches()
        commit = branches.get(revision, revision)
        if not _COMMIT.fullmatch(commit):
            raise unknown_revision(self.address, revision, branches.keys())
        done = self.reporter.stage(f"fetching {revision}")
        what = ("--filter=blob:none", "origin", commit)
        self.git.transfer("fetch", "--progress", "--no-tags", *what, on_bytes=done)
        subject, blobs = f"{self.address} {revision}", self._blobs(commit)
        return GitSnapshot(subject, commit, self.git, blobs, self._missing(commit), self.reporter)

    def publish(self, files: Sequence[Upload]) -> int:
        """Pushes the files as a commit of their own, to a branch that must not exist."""
        number = max(self.versions(), default=0)  # before anything is copied
        with os_errors_told(self.address, "room for a copy of the bundle", MEND):
            tree = self._tree(files)
        size = sum(file.size for file in files)
        while True:
            number += 1
            commit = self._commit(tree, f"Publish {branch_of(number)}")
            if self._push(commit, branch_of(number), "", size):
                return number

    def promote(self, snapshot: Snapshot) -> bool:
        """Points the branch `latest` at the commit."""
        seen = self._branches().get(LATEST, "")
        if seen == snapshot.commit:
            return False
        if not self._push(snapshot.commit, LATEST, seen, 0):
            raise promoted_meanwhile(self.address)
        return True

    def _push(self, commit: str, branch: str, seen: str, num_bytes: int) -> bool:
        """Whether the branch is `commit` now; False if it is not what was seen (`""`: none)."""
        ref = f"{_HEADS}{branch}"
        done = self.reporter.stage(f"pushing {branch}", num_bytes or None)
        lease = f"--force-with-lease={ref}:{seen}"
        try:
            self.git.transfer(
                "push", "--progress", lease, "origin", f"{commit}:{ref}", on_bytes=done
            )
        except RemoteError:
            now = self._branches().get(branch, "")
            if now == seen:
                raise
            return now == commit  # the push went through, only the answer did not
        return True

    def _branches(self) -> dict[str, str]:
        lines = self.git.run("ls-remote", "--heads", "origin").decode(errors="replace").splitlines()
        pairs = (line.split("\t", 1) for line in lines)
        return {ref.removeprefix(_HEADS): commit for commit, ref in pairs}

    def _blobs(self, commit: str) -> dict[str, str]:
        listed = self.git.run("ls-tree", "-r", "-z", commit).decode(errors="replace")
        rows = (row.split("\t", 1) for row in listed.split("\0") if row)
        return {path: kind.split()[2] for kind, path in rows if " blob " in kind}

    def _missing(self, commit: str) -> set[str]:
        tree = f"{commit}^{{tree}}"
        listed = self.git.run("rev-list", "--objects", "--missing=print", tree).decode()
        return {line[1:] for line in listed.splitlines() if line.startswith("?")}

    def _tree(self, files: Sequence[Upload]) -> str:
        rows = [f"100644 {self._blob(file)}\t{file.path}\0" for file in files]
        self.git.run("update-index", "-z", "--index-info", stdin="".join(rows).encode())
        return self.git.run("write-tree").decode().strip()

    def _blob(self, file: Upload) -> str:
        self.reporter.stage(f"adding {file.path}")
        arguments = ("hash-object", "-w", "--no-filters")
        if isinstance(file.content, bytes):
            written = self.git.run(*arguments, "--stdin", stdin=file.content)
        else:
            written = self.git.run(*arguments, "--", str(file.content.absolute()))
        return written.decode().strip()

    def _commit(self, tree: str, title: str) -> str:
        """A commit of its own even where another publishes the same tree in the same second."""
        message = f"{title}\n\nPublish-Id: {uuid.uuid4()}"
        who = () if self.git.knows_committer() else _NOBODY
        return self.git.run(*who, "commit-tree", "-m", message, tree).decode().strip()


@contextmanager
def open_git(url: str, shown: str, name: str, reporter: Reporter) -> Iterator[RemoteGit]:
    """The remote at `url`, with a scratch repository for the time of the block."""
    with ExitStack() as stack:
        with os_errors_told(shown, "a folder for the time of the transfer", MEND):
            folder = stack.enter_context(scratch_folder())
        git = Git(folder, url, shown)
        git.run("init", "--quiet", "--bare", "--template=")
        yield RemoteGit(name, git, reporter)
