"""What can be put under load: somebody who answers a player's turn, and how that went."""

import http.client
import time
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import msgspec

from bench.asks import make_body
from bench.server_process import EVENT_STREAM, HOST, Server
from server.fallback import Reason
from train.dataset import TurnLabel

T_co = TypeVar("T_co", covariant=True)

OURS = "persona serve"
_PATIENCE_S = 300.0
_FULL = (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE)
_SHOWN = 300
"""Characters of an answer that is no answer."""


class Kind(StrEnum):
    """What became of a turn."""

    MAIN = "main"
    FALLBACK = "fallback"
    OVERLOADED = "overloaded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One turn: when it was said (`time.monotonic()`), and seconds from there.

    `state_s` and `first_token_s` are None where nothing of the kind came; `why` says what failed.
    """

    kind: Kind
    start: float
    total_s: float
    state_s: float | None = None
    first_token_s: float | None = None
    why: str = ""


class Listener(Protocol[T_co]):
    """Somebody to whom turns are said."""

    def turn(self, session: str, line: TurnLabel, *, is_first: bool) -> T_co:
        """Say `line` in `session`, which `is_first` begins, and hear what comes of it.

        Blocks; may be called from several threads, for one session from one at a time. Never
        raises: what goes wrong is an outcome too.
        """


class Target(Listener[Outcome], Protocol):
    """Somebody who answers turns, heard to the end."""

    @property
    def name(self) -> str:
        """What it is called in a table."""


class _Meta(msgspec.Struct, frozen=True):
    valid: bool
    reason: str | None


class _Answer(msgspec.Struct, frozen=True):
    meta: _Meta


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """Our server over loopback, by event streams, a connection a turn."""

    server: Server
    max_tokens: int
    name: str = OURS

    def turn(self, session: str, line: TurnLabel, *, is_first: bool) -> Outcome:
        """Say a line; the game's word opens the main path, the forbidden triggers still hold."""
        body = make_body(
            line, session, is_first=is_first, max_tokens=self.max_tokens, precheck_passed=True
        )
        start = time.monotonic()
        connection = http.client.HTTPConnection(
            HOST, self.server.connection.port, timeout=_PATIENCE_S
        )
        try:
            with closing(connection):
                connection.request("POST", "/ask", body, {"Accept": EVENT_STREAM})
                return _hear(connection.getresponse(), start)
        except (OSError, http.client.HTTPException) as error:
            return Outcome(Kind.FAILED, start, time.monotonic() - start, why=repr(error))


def _hear(answer: http.client.HTTPResponse, start: float) -> Outcome:
    """Read an event stream, noting when the first event of each name came."""
    if answer.status != http.client.OK:
        kind = Kind.OVERLOADED if answer.status in _FULL else Kind.FAILED
        said = answer.read()[:_SHOWN].decode(errors="replace")
        return Outcome(kind, start, time.monotonic() - start, why=f"{answer.status}: {said}")
    came: dict[str, float] = {}
    event, meta = "", None
    for line in answer:
        name, _, value = line.decode().strip().partition(": ")
        if name == "event":
            event = value
            came.setdefault(event, time.monotonic() - start)
        elif name == "data" and event == "done":
            meta = msgspec.json.decode(value, type=_Answer).meta
    total = time.monotonic() - start
    if meta is None:
        return Outcome(Kind.FAILED, start, total, why="the stream ended without an answer")
    kind = Kind.MAIN if meta.valid else Kind.FALLBACK
    if meta.reason == Reason.OVERLOADED:
        kind = Kind.OVERLOADED
    return Outcome(kind, start, total, came.get("state"), came.get("token"), meta.reason or "")
