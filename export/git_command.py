"""The git command, run in a bare repository of our own that knows the remote as `origin`.

Settings go by the environment: the address may hold a password, and arguments can be seen by all.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from export.remote import RemoteError

_SETTINGS = {
    "core.bigFileThreshold": "1m",  # models are streamed, never deltified or held in memory
    "core.compression": "0",
    "core.hooksPath": os.devnull,
    "fetch.negotiationAlgorithm": "noop",
    "gc.auto": "0",
    "maintenance.auto": "false",
    "remote.origin.partialclonefilter": "blob:none",  # a file is fetched when it is asked for
    "remote.origin.promisor": "true",
}
_FOREIGN = ("GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE", "GIT_NAMESPACE")
_SYMPTOMS = (
    (
        r"not our ref|unadvertised object|bad object",
        "a commit that is there",
        "name a version, a branch, or a commit that one of them holds",
    ),
    (
        r"No space left on device|SIGXFSZ|signal 25|File too large",
        "room on the disk",
        "free some space, or set PERSONA_CACHE to a folder that has some",
    ),
    (
        r"could not read (Username|Password)|Authentication failed|Permission denied|\b40[13]\b"
        r"|[Aa]ccess denied|insufficient permission|read-only|unable to create temporary",
        "the right to do this",
        "check your credentials: an SSH key or a git credential helper",
    ),
    (
        r"not found|does not appear to be a git repository|does not exist|not a git repository",
        "a git repository",
        "check the address, and create the repository if there is none yet",
    ),
    (
        r"Could not resolve|unable to access|Connection (refused|reset|timed out)|unreachable"
        r"|Could not read from remote|hung up|early EOF",
        "a git server that answers",
        "check the address and the network, then try again",
    ),
)
_TELLING = re.compile(r"\s*(?:(fatal|error|remote): *|(?=! \[))(?P<text>.*\S)")
_DULL = re.compile(r"failed to push some refs|index-pack failed|Total \d|\w+ing (objects|deltas)")
_TRANSFERRED = re.compile(rb"ing objects:[^,]*, ([\d.]+) (bytes|[KMG]iB)")
_UNITS = {b"bytes": 1, b"KiB": 1 << 10, b"MiB": 1 << 20, b"GiB": 1 << 30}


@dataclass(frozen=True, slots=True)
class Git:
    """Runs git in the repository `folder`, whose remote is `url`; `shown` is that without secrets.

    Methods raise RemoteError where git fails.
    """

    folder: Path
    url: str
    shown: str

    def run(self, *arguments: str, stdin: bytes = b"", output: IO[bytes] | None = None) -> bytes:
        """What git prints, unless `output` takes it."""
        done = self._try(arguments, stdin, output)
        if done.returncode:
            raise self._failed(done.returncode, done.stderr)
        return done.stdout or b""

    def transfer(self, *arguments: str, on_bytes: Callable[[int], None]) -> None:
        """Runs what sends or receives, and tells of the bytes since the last call."""
        with subprocess.Popen(  # noqa: S603 (no shell)
            ["git", *arguments],  # noqa: S607 (git is where the user has it)
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=self._environment(),
        ) as process:
            assert process.stderr is not None
            try:
                errors = _watch(process.stderr, on_bytes)
            except BaseException:
                process.terminate()
                raise
        if process.returncode:
            raise self._failed(process.returncode, errors)

    def knows_committer(self) -> bool:
        """Whether git was told who commits; it would guess from the host's name, or fail."""
        asked = ("-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
        return self._try(asked, b"", None).returncode == 0

    def _try(
        self, arguments: tuple[str, ...], stdin: bytes, output: IO[bytes] | None
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(  # noqa: S603
                ["git", *arguments],  # noqa: S607
                input=stdin,
                stdout=output or subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self._environment(),
                check=False,
            )
        except FileNotFoundError as error:
            raise RemoteError("git", "the git command", "none", "install git") from error

    def _environment(self) -> Mapping[str, str]:
        environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
        settings = {**_SETTINGS, "remote.origin.url": self.url}
        first = int(environment.get("GIT_CONFIG_COUNT") or 0)
        for number, (name, value) in enumerate(settings.items(), first):
            environment[f"GIT_CONFIG_KEY_{number}"] = name
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        environment["GIT_CONFIG_COUNT"] = str(first + len(settings))
        environment["GIT_DIR"] = str(self.folder)
        environment["GIT_TERMINAL_PROMPT"] = "0"
        environment["LC_ALL"] = "C"
        return environment

    def _failed(self, code: int, stderr: bytes) -> RemoteError:
        text = stderr.decode(errors="replace").replace(self.url, self.shown)
        if code < 0:
            text += f"\nfatal: git was ended by {signal.Signals(-code).name}"
        lines = [match["text"] for line in text.splitlines() if (match := _TELLING.match(line))]
        telling = [line for line in lines if not _DULL.search(line)]
        found = "; ".join(telling[:3]) or f"git ended with code {code}"
        expected, remedy = "git to succeed", "see what it says, and try again"
        for pattern, wanted, mend in _SYMPTOMS:
            if re.search(pattern, text):
                expected, remedy = wanted, mend
                break
        return RemoteError(f"git+{self.shown}", expected, found, remedy)


def _watch(stream: IO[bytes], on_bytes: Callable[[int], None]) -> bytes:
    """All that git said, its progress passed on while it says it."""
    said, done = b"", 0
    while block := os.read(stream.fileno(), 1 << 16):
        said += block
        if counts := _TRANSFERRED.findall(said[-200:]):
            number, unit = counts[-1]
            now = int(float(number) * _UNITS[unit])
            on_bytes(max(0, now - done))
            done = max(done, now)
    return said
