"""`persona serve` as a process: what its signals do, and a bundle that changes under it."""

import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.server_process import SERVE, free_port
from heads.bundle import MANIFEST
from tests.server.serving import PATIENCE_S, ask_body, read_events, wait_until
from tests.server.small_world import DOCUMENTS, write_small_world
from tests.tiny_bundle import write_tiny_bundle

NEVER_ENDS: dict[str, Any] = {"gen_params": {"max_tokens": 512, "seed": 7, "temperature": 5}}


@dataclass
class Served:
    """A running server."""

    process: "subprocess.Popen[str]"
    client: httpx.Client
    log: Path
    bundle: Path
    world: Path

    def is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stages(self) -> list[str]:
        found: list[str] = self.client.get("/npcs").json()[0]["stages"]
        return found

    def send(self, signal_: signal.Signals) -> None:
        self.process.send_signal(signal_)


@contextmanager
def started(folder: Path, **settings: Any) -> Iterator[Served]:
    bundle, world = folder / "bundle", folder / "world"
    if not bundle.exists():
        bundle.mkdir()
        write_tiny_bundle(bundle)
        write_small_world(world)
    port = free_port()
    sizes = {"N_CTX": 4_096, "N_SEQUENCES": 4, "THREADS": 1, "EMBEDDER": "none", "PREFIX_MB": 0}
    given = {"BUNDLE": bundle, "WORLD": world, "LOG_FORMAT": "json", **sizes, **settings}
    environment = {f"PERSONA_{name}": str(value) for name, value in given.items()}
    log = folder / "log"
    with (
        log.open("w") as out,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE_S) as client,
        subprocess.Popen(
            [*SERVE, "--port", str(port)],
            env={**os.environ, **environment},
            stderr=out,
            text=True,
            # a shell lets its background jobs, and all that they start, ignore Ctrl-C
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
        ) as process,
    ):
        try:
            served = Served(process, client, log, bundle, world)
            wait_until(served.is_ready)
            yield served
        finally:
            process.kill()


def test_sigterm_turns_ready_red_and_a_second_waits_for_the_turn_in_flight_alone(
    tmp_path: Path,
) -> None:
    with started(tmp_path, DRAIN_MS=600_000) as served:
        texts: list[str] = []
        begun = threading.Event()

        def listen() -> None:
            body = ask_body(stream=True, **NEVER_ENDS)
            with httpx.stream("POST", f"{served.client.base_url}/ask", json=body) as response:
                for part in response.iter_text():
                    texts.append(part)
                    begun.set()

        listener = threading.Thread(target=listen)
        listener.start()
        assert begun.wait(PATIENCE_S)
        served.send(signal.SIGTERM)
        wait_until(lambda: served.client.get("/readyz").status_code == 503)
        assert served.client.get("/readyz").json()["code"] == "draining"
        late = served.client.post("/ask", json=ask_body(player_id="late")).json()
        assert late["meta"]["valid"] is True, "who comes all the same is answered"
        served.send(signal.SIGTERM)
        listener.join(PATIENCE_S)
        assert read_events("".join(texts))[-1].name == "done"
        assert served.process.wait(PATIENCE_S) == -signal.SIGTERM


def test_a_server_that_is_ready_says_where(tmp_path: Path) -> None:
    with started(tmp_path) as served:
        messages = [json.loads(line)["message"] for line in served.log.read_text().splitlines()]
    url = str(served.client.base_url).rstrip("/")
    assert f"ready: {url}/ (playground), {url}/docs (API)" in messages
    assert not any(message.startswith("try:") for message in messages)


def test_a_text_log_says_what_to_type_too(tmp_path: Path) -> None:
    with started(tmp_path, LOG_FORMAT="text") as served:
        (hint,) = re.findall(r"try: (curl .*)", served.log.read_text())
        done = subprocess.run(["sh", "-c", hint], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["meta"]["npc_id"] == "mina"


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    with started(tmp_path) as served:
        port = str(served.client.base_url.port)
        environment = {**os.environ, "PERSONA_BUNDLE": "/nowhere", "PERSONA_PORT": port}
        done = subprocess.run(
            SERVE, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
        )
    assert (done.returncode, done.stderr) == (
        1,
        f"persona: port {port} is in use; set PERSONA_PORT\n",
    )


def test_what_is_no_origin_is_told_before_anything_is_loaded() -> None:
    environment = {
        **os.environ,
        "PERSONA_BUNDLE": "/nowhere",
        "PERSONA_PORT": "0",
        "PERSONA_CORS_ORIGINS": "https://a.example, b.example",
    }
    done = subprocess.run(
        SERVE, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("persona: PERSONA_CORS_ORIGINS: 'b.example' is no origin")


def test_an_offer_of_http2_by_a_process_is_answered_and_makes_no_noise(tmp_path: Path) -> None:
    offer = {
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAEAAEAA",
    }
    with started(tmp_path) as served:
        assert served.client.post("/ask", json=ask_body(), headers=offer).status_code == 200
        levels = [json.loads(line)["level"] for line in served.log.read_text().splitlines()]
    assert "warning" not in levels


def test_ctrl_c_does_not_wait_for_a_balancer(tmp_path: Path) -> None:
    with started(tmp_path, DRAIN_MS=600_000) as served:
        served.send(signal.SIGINT)
        assert served.process.wait(PATIENCE_S) == 130


def test_a_drain_ends_by_itself(tmp_path: Path) -> None:
    with started(tmp_path, DRAIN_MS=100) as served:
        served.send(signal.SIGTERM)
        assert served.process.wait(PATIENCE_S) == -signal.SIGTERM


def test_sighup_loads_world_and_bundle_anew_and_refuses_what_is_broken(tmp_path: Path) -> None:
    with started(tmp_path) as served:
        first = served.client.post("/ask", json=ask_body()).json()["meta"]["bundle"]
        (served.world / "world.json").write_text("[{")
        served.send(signal.SIGHUP)
        wait_until(lambda: "nothing was loaded anew" in served.log.read_text())
        assert served.client.post("/ask", json=ask_body()).json()["meta"]["valid"] is True
        (served.world / "world.json").write_text(json.dumps(DOCUMENTS))
        manifest = json.loads((served.bundle / MANIFEST).read_text())
        manifest["base"]["name"] = "another"
        (served.bundle / MANIFEST).write_text(json.dumps(manifest))
        served.send(signal.SIGHUP)
        wait_until(lambda: served.client.get("/readyz").json()["bundle"] != first)
        answer = served.client.post("/ask", json=ask_body()).json()
        assert answer["meta"]["valid"] is True
        assert answer["meta"]["bundle"] != first
        lines = [json.loads(line) for line in served.log.read_text().splitlines()]
        assert any(line["message"].startswith("loaded anew") for line in lines)


def test_a_killed_server_starts_again_with_its_files_whole(tmp_path: Path) -> None:
    for _ in range(2):
        with started(tmp_path) as served:
            assert served.client.post("/ask", json=ask_body()).status_code == 200
            served.send(signal.SIGKILL)
            served.process.wait()
