"""A server in a process of its own on loopback: started, asked over one connection, stopped."""

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import msgspec

from bench.players import DATA
from runtime.errors import RuntimeFault
from server.settings import Settings, read_settings

HOST = "127.0.0.1"
SERVE = (sys.executable, "-c", "import server.cli as c, sys; sys.exit(c.main())", "serve")
"""`persona serve`, by the interpreter that runs this."""
EVENT_STREAM = "text/event-stream"
_UNSHOWN = {"host", "port", "api_keys", "api_keys_file", "admin_key"}
_START_S, _ANSWER_S, _STOP_S = 600.0, 300.0, 30.0
"""The first start with a world embeds it, which takes a minute or so."""
_POLL_S = 0.005
_LAST_CHARACTERS = 800


class ServerFailed(RuntimeFault):
    """The server did not start, or gave something else than an answer."""


def add_server(parser: argparse.ArgumentParser) -> None:
    """What is served and what players say; whatever else `PERSONA_*` sets holds too."""
    add = parser.add_argument
    add("--bundle", type=Path, help="default: PERSONA_BUNDLE, or the default bundle")
    add("--world", type=Path, help="default: PERSONA_WORLD, or the demo world")
    add("--data", type=Path, default=DATA, help="what players say: a folder of JSONL files")


def server_settings(args: argparse.Namespace) -> Settings:
    """The settings that a server is started with. Raises SettingsError."""
    named = {name: getattr(args, name) for name in ("bundle", "world")}
    given = {name: path for name, path in named.items() if path is not None}
    return msgspec.structs.replace(read_settings(), **given)


def shown_settings(settings: Settings) -> dict[str, object]:
    """What a report says of the server: all but its keys and address, of folders their names."""
    fields = msgspec.structs.asdict(settings)
    shown = {name: value for name, value in fields.items() if name not in _UNSHOWN}
    folders = {name: Path(shown[name]).name for name in ("bundle", "world", "embedder")}
    return shown | folders


@contextmanager
def run_server(command: Sequence[str], settings: Settings) -> Iterator["Server"]:
    """`command` with --host and --port, ended with the context.

    It is given the bundle, world, deadline and swap space of `settings`; whatever else `PERSONA_*`
    sets holds too. Ctrl-C in a terminal does not reach it: what came so far can still be told.
    """
    port = free_port()
    given = {
        "PERSONA_BUNDLE": str(settings.bundle),
        "PERSONA_WORLD": str(settings.world),
        "PERSONA_DEADLINE_MS": str(settings.deadline_ms),
        "PERSONA_SWAP_MB": str(settings.swap_mb),
    }
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        start = time.perf_counter()
        with _sigterm_put_off():
            process = subprocess.Popen(  # noqa: S603 (our own server)
                [*command, "--host", HOST, "--port", str(port)],
                env=os.environ | given,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            stack.callback(stop_process, process)
        connection = http.client.HTTPConnection(HOST, port, timeout=_ANSWER_S)
        yield Server(process, stack.enter_context(closing(connection)), log, start)


@contextmanager
def _sigterm_put_off() -> Iterator[None]:
    """What a SIGTERM does waits until the block ends: a process that began in it is known then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if caught:
        signal.raise_signal(signal.SIGTERM)


def free_port() -> int:
    """A port of loopback that nobody uses just now."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


def stop_process(process: "subprocess.Popen[bytes]") -> None:
    """End a process, by force if it does not go."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass(frozen=True, slots=True)
class Server:
    """A running process, the one connection to it, what it writes, and when it was started."""

    process: "subprocess.Popen[bytes]"
    connection: http.client.HTTPConnection
    log: IO[bytes]
    start: float

    def wait_until_ready(self) -> float:
        """Seconds from its start until `/readyz` says so, to 5 ms. Raises ServerFailed."""
        while not self._is_ready():
            code = self.process.poll()
            if code is not None or time.perf_counter() - self.start > _START_S:
                how = "is not ready" if code is None else f"ended with {code}"
                raise ServerFailed(f"the server {how}: {self._last_words()}")
            time.sleep(_POLL_S)
        return time.perf_counter() - self.start

    def get(self, route: str) -> bytes:
        """What a route answers with. Raises ServerFailed."""
        return self._answer("GET", route, None, {})

    def post(self, route: str, body: bytes, accept: str = "application/json") -> bytes:
        """The whole answer to a body in JSON. Raises ServerFailed."""
        return self._answer("POST", route, body, {"Accept": accept})

    def _answer(
        self, method: str, route: str, body: bytes | None, headers: dict[str, str]
    ) -> bytes:
        try:
            self.connection.request(method, route, body, headers)
            answer = self.connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException) as error:
            said = self._last_words()
            raise ServerFailed(f"the server broke {route} off: {error!r}; {said}") from error
        if answer.status != http.client.OK:
            said = content[:_LAST_CHARACTERS].decode(errors="replace")
            raise ServerFailed(f"the server answered {route} with {answer.status}: {said}")
        return content

    def _is_ready(self) -> bool:
        try:
            self.connection.request("GET", "/readyz")
            answer = self.connection.getresponse()
            answer.read()
        except OSError:
            self.connection.close()
            return False
        return answer.status == http.client.OK

    def _last_words(self) -> str:
        self.log.seek(0)
        return self.log.read().decode(errors="replace")[-_LAST_CHARACTERS:].strip()
