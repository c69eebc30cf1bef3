"""A running server, as a game sees it over HTTP and the machine by its processes."""

import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

READY_S = 900
"""A server may take so long to be ready: QEMU is many times slower than the CPU it stands for."""
TURN_S = 1_800


@dataclass(slots=True)
class Server:
    """A server that runs in a container, or beside it."""

    process: subprocess.Popen[Any]
    port: int
    log: Path
    ready_s: float = 0.0
    key: str = ""

    def wait_until_ready(self) -> None:
        """Raises RuntimeError with the log's end if the server ends or takes too long."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.status("/readyz") == 200:
                return
            time.sleep(0.2)
        raise RuntimeError(f"the server is not ready:\n{self.log.read_text()[-2000:]}")

    def status(self, path: str, key: str | None = None) -> int | None:
        """The HTTP status of a GET; None if nobody answers."""
        try:
            with self._open(path, None, key or "", timeout=10) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer of POST /ask."""
        with self.post(body) as reply:
            answer: dict[str, Any] = json.load(reply)
        return answer

    def post(self, body: Mapping[str, Any]) -> Any:
        """The reply of POST /ask, open: an HTTPResponse."""
        return self._open("/ask", json.dumps(body).encode(), self.key, timeout=TURN_S)

    def _open(self, path: str, body: bytes | None, key: str, timeout: float) -> Any:
        headers = {"Content-Type": "application/json"}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, headers)
        return urllib.request.urlopen(request, timeout=timeout)

    def terminate(self) -> None:
        """Send SIGTERM to the first process: of the container, if it runs in one."""
        os.kill(self.pids()[0], signal.SIGTERM)

    def end(self) -> None:
        """Terminate, and wait until it is so; kill what takes too long."""
        if self.process.poll() is None:
            self.terminate()
        try:
            self.process.wait(120)
        except subprocess.TimeoutExpired:
            kill(self.process)

    def pids(self) -> list[int]:
        """The server's processes, without the one that set its container up."""
        outer, *inner = family(self.process.pid)
        return inner or [outer]

    def told(self, name: str) -> list[str]:
        """A line of /proc/PID/status of each process."""
        return [
            line.partition(":")[2].strip()
            for pid in self.pids()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines()
            if line.startswith(f"{name}:")
        ]

    def memory_mb(self) -> float:
        """Resident memory of all its processes."""
        return sum(int(value.split()[0]) for value in self.told("VmRSS")) * 1_024 / 1e6


def family(pid: int) -> list[int]:
    """A process and its descendants, parents before children."""
    found, waiting = [], [pid]
    while waiting:
        found.append(waiting.pop())
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text()
            waiting += [int(child) for child in text.split()]
    return found


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process with its descendants, which a namespace's end does not always take along."""
    for pid in reversed(family(process.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()
