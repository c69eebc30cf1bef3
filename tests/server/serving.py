"""Serves by a real uvicorn on loopback, and watches what the engine is asked."""

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from heads.clues import Clues, Remark
from heads.session import HeadsSession, Prediction
from runtime.engine import Engine
from runtime.llama_backend import Vector
from runtime.sequence import EngineSequence, Event, Request
from server.http import make_app
from server.idempotency import Idempotency
from server.service import Service, open_service
from server.serving import Http
from server.settings import Settings

PATIENCE_S = 30.0
"""How long to wait for what must happen; a shared machine stalls at times."""


def ask_body(text: str = "hello there", **others: Any) -> dict[str, Any]:
    """A request that is right and begins a conversation; `others` may change that."""
    return {
        "text": text,
        "npc_id": "mina",
        "player_id": "p1",
        "gen_params": {"max_tokens": 6, "seed": 7},
        "dialogue_history": [],
        **others,
    }


@contextmanager
def opened(bundle: Path, world: Path, **settings: Any) -> Iterator[Service]:
    """A service on one thread, small, that keeps no prefixes on disk."""
    sizes: dict[str, Any] = {
        "n_ctx": 4_096,
        "n_sequences": 4,
        "threads": 1,
        "embedder": "none",
        "prefix_mb": 0,
        **settings,
    }
    with open_service(Settings(bundle=bundle, world=world, **sizes)) as service:
        yield service


def altered(service: Service, heads: HeadsSession | None = None, **dialogue: Any) -> Service:
    """The same engine behind a dialogue with other settings or heads."""
    heads = heads or service.loaded.heads
    return replace(
        service,
        loaded=replace(service.loaded, heads=heads),
        dialogue=replace(service.dialogue, heads=heads, **dialogue),
        idempotency=Idempotency(),
    )


@contextmanager
def served(service: Service, origins: Collection[str] = ()) -> Iterator[str]:
    """The address of a real server in another thread."""
    app = make_app(lambda: nullcontext(service), origins)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, http=Http, ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@contextmanager
def client_of(service: Service) -> Iterator[httpx.Client]:
    """A client of a real server in another thread."""
    with served(service) as url, httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
        yield client


def wait_until(is_so: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait until `is_so`, or fail."""
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.005)


def is_idle(engine: Engine) -> bool:
    """Whether no request waits, runs or holds a sequence."""
    stats = engine.stats
    return not (stats.num_waiting or stats.num_running or stats.num_claimed_sequences)


@dataclass
class Gate:
    """Something that stops at a point until the test lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Stop here."""
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)


class HookedHeads(HeadsSession):
    """Heads that do something before they answer, on the engine's thread."""

    def __init__(self, heads: HeadsSession, before: Callable[[], None]) -> None:
        self._heads, self._before, self.spec = heads, before, heads.spec
        self.found: list[tuple[Remark, Clues]] = []
        self.asked: list[Clues] = []

    def find(self, remark: Remark) -> Clues:
        """Noted, and found as ever."""
        clues = replace(self._heads.find(remark))
        self.found.append((remark, clues))
        return clues

    def predict(self, state: Vector, clues: Clues) -> Prediction:
        """The same prediction, later."""
        self.asked.append(clues)
        self._before()
        return self._heads.predict(state, clues)


@dataclass
class Spy:
    """What the engine was asked and what came of it, in order."""

    requests: list[Request] = field(default_factory=list)
    sequences: list[EngineSequence] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    on_event: Callable[[Event], None] = lambda _: None

    @classmethod
    def on(cls, monkeypatch: pytest.MonkeyPatch) -> "Spy":
        """Watch every engine."""
        spy, submit = cls(), Engine.submit

        def watched(
            engine: Engine, request: Request, emit: Callable[[Event], None]
        ) -> EngineSequence:
            def noted(event: Event) -> None:
                spy.events.append(event)
                emit(event)
                spy.on_event(event)

            spy.requests.append(request)
            spy.sequences.append(submit(engine, request, noted))
            return spy.sequences[-1]

        monkeypatch.setattr(Engine, "submit", watched)
        return spy


@dataclass(frozen=True)
class ServerEvent:
    """One server-sent event."""

    name: str
    data: dict[str, Any]


def read_events(text: str) -> list[ServerEvent]:
    """The events of a whole stream. Each is one `event:` and one `data:` line."""
    blocks = text.split("\n\n")
    assert blocks.pop() == "", "the stream ends with a whole event"
    events = []
    for block in blocks:
        name, data = block.split("\n")
        assert name.startswith("event: ")
        assert data.startswith("data: ")
        content = msgspec.json.decode(data.removeprefix("data: "))
        events.append(ServerEvent(name.removeprefix("event: "), content))
    return events


def check_problem(
    response: httpx.Response, status: int, code: str, field: str | None = None
) -> dict[str, Any]:
    """The problem that a response must hold."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = response.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem.get("field") == field
    assert problem["title"]
    assert problem["detail"]
    return problem
