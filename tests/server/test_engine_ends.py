"""`persona serve` as a process whose engine ends under it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.server_process import free_port
from tests.server.serving import PATIENCE_S, ask_body, wait_until

FRAGILE = """
import sys
from runtime.engine import Engine
from server.cli import main

def step(engine):
    raise SystemExit

Engine.step = step
sys.exit(main())
"""
"""`persona`, but the first request ends the engine's thread."""


@contextmanager
def started(
    log: Path, bundle: Path, world: Path, **settings: object
) -> Iterator[tuple["subprocess.Popen[bytes]", httpx.Client]]:
    port = free_port()
    sizes = {"N_CTX": 4_096, "THREADS": 1, "EMBEDDER": "none", "PREFIX_MB": 0}
    given = {"BUNDLE": bundle, "WORLD": world, "LOG_FORMAT": "json", **sizes, **settings}
    environment = {f"PERSONA_{name}": str(value) for name, value in given.items()}
    command = [sys.executable, "-c", FRAGILE, "serve", "--port", str(port)]
    with (
        log.open("w") as out,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client,
        subprocess.Popen(command, env={**os.environ, **environment}, stderr=out) as process,
    ):

        def is_ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/readyz").is_success
            except httpx.TransportError:
                return False

        try:
            wait_until(is_ready)
            yield process, client
        finally:
            process.kill()


def test_a_server_whose_engine_has_ended_ends_too_and_says_why(
    tmp_path: Path, tiny_bundle: Path, small_world: Path
) -> None:
    log = tmp_path / "log"
    with started(log, tiny_bundle, small_world, DRAIN_MS=100) as (process, client):
        answer = client.post("/ask", json=ask_body()).json()
        assert answer["meta"]["valid"] is False
        assert process.wait(PATIENCE_S) == 1
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    errors = [line["message"] for line in lines if line["level"] == "error"]
    assert errors == ["the engine is not running; ending, to be started anew"]


def test_it_drains_first_and_a_signal_spares_it_the_wait(
    tmp_path: Path, tiny_bundle: Path, small_world: Path
) -> None:
    with started(tmp_path / "log", tiny_bundle, small_world, DRAIN_MS=600_000) as (process, client):
        client.post("/ask", json=ask_body())
        wait_until(lambda: client.get("/readyz").json().get("code") == "draining")
        assert client.post("/ask", json=ask_body(player_id="late")).is_success
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == -signal.SIGTERM
