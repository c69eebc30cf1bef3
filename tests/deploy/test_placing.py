"""Where the deployed nginx sends a caller who names no session."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from bench.server_process import HOST
from tests.deploy.cluster import NGINX, Engine, run_nginx

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="no nginx here; scripts/test-nginx installs it"
)


class Teller(BaseHTTPRequestHandler):
    """Answers with its port."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.connection.getsockname()[1]).encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def telling() -> Iterator[int]:
    """The port of a server that answers with it."""
    with ThreadingHTTPServer((HOST, 0), Teller) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        ports = [stack.enter_context(telling()) for _ in range(2)]
        first, second = (Engine(port, Path(), Path()) for port in ports)
        yield stack.enter_context(run_nginx(tmp_path, (first, second))).url


def test_callers_behind_caddy_are_told_apart_and_each_stays_with_one_engine(url: str) -> None:
    def place(caller: str) -> str:
        return httpx.get(f"{url}/npcs", headers={"X-Forwarded-For": caller}).text

    callers = [f"203.0.113.{number}" for number in range(32)]
    places = [place(caller) for caller in callers]
    assert len(set(places)) == 2
    assert [place(caller) for caller in callers] == places


def test_a_session_goes_before_the_caller(url: str) -> None:
    def place(caller: str) -> str:
        headers = {"X-Forwarded-For": caller, "X-Session-ID": "p1:sora"}
        return httpx.get(f"{url}/npcs", headers=headers).text

    assert len({place(f"203.0.113.{number}") for number in range(16)}) == 1
