"""Two `persona serve` processes behind nginx with the deployed configuration, on loopback."""

import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec

from bench.server_process import HOST, SERVE, free_port, stop_process
from tests.server import serving

DEPLOYED = Path("deploy/nginx")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
PATIENCE_S = 90.0
"""How long to wait for what must happen; a shared machine stalls at times."""
API_KEY = "a-key-for-the-tests-of-deploy"
AUTHORIZATION = {"Authorization": f"Bearer {API_KEY}"}
SETTINGS = {
    "PERSONA_API_KEYS": API_KEY,
    "PERSONA_DRAIN_MS": "300",
    "PERSONA_EMBEDDER": "none",
    "PERSONA_N_CTX": "8192",
    "PERSONA_N_SEQUENCES": "4",
    "PERSONA_PREFIX_MB": "0",
    "PERSONA_PROMPT_TOKENS": "3072",
    "PERSONA_THREADS": "1",
}
"""Small, each engine on one core, nothing kept on disk from one start to the next."""
LINES = (
    "안녕하세요, 혹시 도움이 필요하신가요?",
    "등대에는 언제부터 계셨어요?",
    "밤에 무섭지는 않으세요?",
    "제가 심지를 구해 올게요.",
    "오늘은 바람이 많이 부네요.",
    "등대 일지를 보여 주실 수 있나요?",
)


wait_until = partial(serving.wait_until, patience_s=PATIENCE_S)


@dataclass
class Engine:
    """A `persona serve` that can end and be started again on the same port."""

    port: int
    bundle: Path
    log: Path
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """Start it, if it does not run."""
        if self.process is not None and self.process.poll() is None:
            return
        others = {name: v for name, v in os.environ.items() if not name.startswith("PERSONA_")}
        cache = {name: v for name, v in os.environ.items() if name == "PERSONA_CACHE"}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*SERVE, "--host", HOST, "--port", str(self.port)],
                env=others | cache | SETTINGS | {"PERSONA_BUNDLE": str(self.bundle)},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait until it can answer turns."""
        wait_until(self._is_ready)

    def is_draining_or_gone(self) -> bool:
        """Whether it says that it is about to end, or has ended."""
        assert self.process is not None
        if self.process.poll() is not None:
            return True
        return self._status("/readyz") == httpx.codes.SERVICE_UNAVAILABLE

    def send(self, signal_: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(signal_)

    def end(self, signal_: signal.Signals) -> None:
        """End it by a signal, and wait until it is gone."""
        assert self.process is not None
        self.send(signal_)
        self.process.wait(PATIENCE_S)

    def metric(self, name: str) -> float:
        """A metric's value, or 0 before it was first counted; the sum over its labels."""
        text = httpx.get(f"{self.url}/metrics", headers=AUTHORIZATION, timeout=PATIENCE_S).text
        values = re.findall(rf"^{re.escape(name)}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in values)

    def tokens(self, kind: str) -> float:
        """How many tokens of a kind it has counted: prompt, cached, completion."""
        return self.metric(f'persona_tokens_total{{kind="{kind}"}}')

    def has_unread_request(self) -> bool:
        """Whether a request lies before it that it has not read. Linux tells, in /proc/net/tcp."""
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, queues, *_ = line.split()
            is_here = state == "01" and int(local.partition(":")[2], 16) == self.port
            if is_here and int(queues.partition(":")[2], 16):
                return True
        return False

    def _is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-2_000:]
        return self._status("/readyz") == httpx.codes.OK

    def _status(self, route: str) -> int | None:
        try:
            return httpx.get(self.url + route, timeout=PATIENCE_S).status_code
        except httpx.TransportError:
            return None


@dataclass(frozen=True)
class Balancer:
    """A running nginx, and the log that says which engines it asked."""

    url: str
    log: Path

    def asked(self, request_id: str) -> list[int]:
        """The ports of the engines that a request was sent to, in order."""
        found: list[list[int]] = []

        def is_logged() -> bool:
            # the last line may be half there
            for line in self.log.read_bytes().splitlines(keepends=True):
                if line.startswith(b"{") and line.endswith(b"}\n"):
                    entry = msgspec.json.decode(line)
                    if entry["request_id"] == request_id:
                        found.append(
                            [int(port) for port in re.findall(r":(\d+)", entry["engines"])]
                        )
                        return True
            return False

        wait_until(is_logged)
        return found[0]


@dataclass(frozen=True)
class Cluster:
    """Two engines and what balances between them."""

    engines: tuple[Engine, Engine]
    balancer: Balancer

    def other(self, engine: Engine) -> Engine:
        """The one that `engine` is not."""
        first, second = self.engines
        return second if engine is first else first

    def home(self, session: str) -> int | None:
        """The port of the engine that a session's requests go to now; None while all are gone."""
        id_ = uuid.uuid4().hex
        headers = AUTHORIZATION | {"X-Session-ID": session, "X-Request-ID": id_}
        url = f"{self.balancer.url}/npcs"
        response = httpx.get(url, headers=headers, timeout=PATIENCE_S)
        return self.balancer.asked(id_)[-1] if response.is_success else None

    def sessions_of(self, engine: Engine, count: int) -> list[str]:
        """New sessions that are at home with `engine`."""
        sessions: list[str] = []

        def are_found() -> bool:
            session = f"session-{uuid.uuid4().hex}"
            if self.home(session) == engine.port:
                sessions.append(session)
            return len(sessions) == count

        wait_until(are_found)
        return sessions

    def all_up(self) -> None:
        """Start what does not run, and wait until nginx sends requests to it again."""
        for engine in self.engines:
            engine.start()
        for engine in self.engines:
            engine.wait_until_ready()
        for engine in self.engines:
            self.sessions_of(engine, 1)


@dataclass(frozen=True)
class Turn:
    """What came of one request, and the ports of the engines that were asked."""

    status: int
    answer: dict[str, Any]
    asked: list[int]

    @property
    def is_answered(self) -> bool:
        """Whether the model answered it."""
        return self.status == httpx.codes.OK and self.answer["meta"]["valid"]

    @property
    def history(self) -> str:
        """What the engine made of the history."""
        history: str = self.answer["meta"]["history"]
        return history


@dataclass
class Player:
    """Talks to Sora in one session and, as a game server does, sends the whole dialogue."""

    url: str
    balancer: Balancer
    session: str
    lines: Sequence[str] = LINES
    dialogue: list[dict[str, str]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def request(self, **headers: str) -> httpx.Request:
        """The next turn, with a new `Idempotency-Key` unless it is given, or given as empty."""
        sent = {"X-Session-ID": self.session, "X-Request-ID": uuid.uuid4().hex}
        sent |= {"Idempotency-Key": uuid.uuid4().hex} | headers
        body = {
            "npc_id": "sora",
            "player_id": self.session,
            "session_id": self.session,
            "text": self.lines[len(self.dialogue) % len(self.lines)],
            "dialogue_history": self.dialogue,
            "precheck_passed": True,
            "gen_params": {"temperature": 0, "max_tokens": 24},
        }
        present = AUTHORIZATION | {name: value for name, value in sent.items() if value}
        return httpx.Request("POST", f"{self.url}/ask", headers=present, json=body)

    def say(self, **headers: str) -> Turn:
        """Say the next line, once, and remember what was answered."""
        request = self.request(**headers)
        with httpx.Client(timeout=PATIENCE_S) as client:
            response = client.send(request)
        is_direct = self.url != self.balancer.url
        asked = [] if is_direct else self.balancer.asked(request.headers["X-Request-ID"])
        turn = Turn(response.status_code, response.json(), asked)
        if turn.is_answered:
            said = msgspec.json.decode(request.content)["text"]
            self.dialogue = [*self.dialogue, {"player": said, "npc": turn.answer["text"]}]
        self.turns.append(turn)
        return turn


@contextmanager
def run_nginx(folder: Path, engines: tuple[Engine, ...]) -> Iterator[Balancer]:
    """The deployed nginx, but for its port and the engines' addresses."""
    assert NGINX is not None
    port = free_port()
    deployed = (DEPLOYED / "nginx.conf").read_text()
    assert deployed.count("listen 8080;") == 1
    config = folder / "nginx.conf"
    config.write_text(deployed.replace("listen 8080;", f"listen {HOST}:{port};"))
    lines = (DEPLOYED / "engines.conf").read_text()
    for number, engine in enumerate(engines, 1):
        assert lines.count(f"server engine-{number}:8000 ") == 1
        lines = lines.replace(f"engine-{number}:8000", f"{HOST}:{engine.port}")
    (folder / "engines.conf").write_text(lines)
    log = folder / "nginx.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [NGINX, "-p", str(folder), "-c", str(config), "-g", "daemon off;"],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://{HOST}:{port}"
        wait_until(lambda: _is_listening(process, url, log))
        yield Balancer(url, log)
    finally:
        stop_process(process)


def _is_listening(process: "subprocess.Popen[bytes]", url: str, log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    try:
        httpx.get(f"{url}/metrics")
    except httpx.TransportError:
        return False
    return True
