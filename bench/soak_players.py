"""How players behave in `persona bench soak`: well, impatiently, slowly, or not at all."""

import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import count
from random import Random

import msgspec

from bench.asks import make_body
from bench.server_process import EVENT_STREAM, HOST
from server.http import REPLAYED
from server.schemas import Answer, StateEvent
from train.dataset import TurnLabel

SHARES = {
    "json": 0.35,
    "stream": 0.35,
    "twice": 0.05,
    "leaves": 0.10,
    "slow": 0.05,
    "malformed": 0.10,
}
"""Who comes, and how often."""
_PIECE, _PAUSE_S = 64, 0.25
"""Bytes that a slow reader takes, and how long it looks at them."""
_KNOWN = {400, 404, 413, 422}
"""What may be said to what is no request."""


@dataclass(slots=True)
class Seen:
    """What one request came to."""

    manner: str
    end: str = ""
    """In a word: the path of the answer and its reason, a status, or what the client did."""
    turn_id: str | None = None
    state_s: float | None = None
    faults: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Call:
    """One request to be made."""

    port: int
    body: bytes
    session: str
    number: int
    patience_s: float

    def send(self, connection: http.client.HTTPConnection, **headers: str) -> None:
        """Ask over `connection`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/ask", self.body, named)

    def connect(self) -> "closing[http.client.HTTPConnection]":
        """A connection of its own."""
        return closing(http.client.HTTPConnection(HOST, self.port, timeout=self.patience_s))


@dataclass(frozen=True, slots=True)
class Crowd:
    """Says each turn in a manner of its own; see Listener. Every turn has the game's word."""

    port: int
    manners: Sequence[str]
    """Of all turns, in the order in which they begin."""
    max_tokens: int
    """Of a reply."""
    patience_s: float
    """How long a client waits for it."""
    on_end: Callable[[], object]
    """Called after each turn."""
    _numbers: Iterator[int] = field(default_factory=count)

    def turn(self, session: str, line: TurnLabel, *, is_first: bool) -> Seen:
        """What the next turn came to."""
        number = next(self._numbers)
        body = make_body(
            line, session, is_first=is_first, max_tokens=self.max_tokens, precheck_passed=True
        )
        seen = behave(self.manners[number], Call(self.port, body, session, number, self.patience_s))
        self.on_end()
        return seen


def behave(manner: str, call: Call) -> Seen:
    """Make a request in that manner. Never raises: what breaks is a fault."""
    seen = Seen(manner)
    try:
        _MANNERS[manner](call, seen)
    except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
        seen.end = "broken off"
        seen.faults.append(f"{manner} {call.number}: {error!r}")
    return seen


def _json(call: Call, seen: Seen) -> None:
    with call.connect() as connection:
        call.send(connection)
        _check_answer(call, seen, _whole(call, seen, connection.getresponse()))


def _stream(call: Call, seen: Seen, pause_s: float = 0.0) -> None:
    start = time.monotonic()
    with call.connect() as connection:
        call.send(connection, Accept=EVENT_STREAM)
        answer = connection.getresponse()
        text = b""
        while piece := answer.read1(_PIECE) if pause_s else answer.readline():
            text += piece
            if seen.state_s is None and b"event: state" in text:
                seen.state_s = time.monotonic() - start
            time.sleep(pause_s)
    parts = [part for part in text.split(b"\n\n") if part and not part.startswith(b":")]
    events = [part.partition(b"\ndata: ")[::2] for part in parts]
    names = [name.removeprefix(b"event: ").decode() for name, _ in events]
    if names[:1] != ["state"] or names[-1:] != ["done"] or set(names[1:-1]) - {"token"}:
        seen.faults.append(f"{seen.manner} {call.number}: events {names}")
        return
    state = msgspec.json.decode(events[0][1], type=StateEvent)
    found = msgspec.json.decode(events[-1][1], type=Answer)
    if (state.delta, state.flags) != (found.delta, found.flags):
        seen.faults.append(f"{seen.manner} {call.number}: the state was taken back")
    told = "".join(msgspec.json.decode(data)["text"] for _, data in events[1:-1])
    if told != found.text:
        seen.faults.append(f"{seen.manner} {call.number}: told {told!r}, meant {found.text!r}")
    if pause_s:
        seen.state_s = None  # that was the reader's own slowness
    _check_answer(call, seen, events[-1][1])


def _slow(call: Call, seen: Seen) -> None:
    _stream(call, seen, _PAUSE_S)


def _twice(call: Call, seen: Seen) -> None:
    """The second comes while the first runs, on a connection of its own."""
    with call.connect() as first, call.connect() as again:
        for connection in (first, again):
            call.send(connection, Idempotency_Key=f"turn {call.number}")
        answers = [connection.getresponse() for connection in (first, again)]
        one, other = (_whole(call, seen, answer) for answer in answers)
    if one != other or {answer.headers.get(REPLAYED) for answer in answers} != {None, "true"}:
        seen.faults.append(f"twice {call.number}: two turns")
    _check_answer(call, seen, one)


def _leaves(call: Call, seen: Seen) -> None:
    """After the first bytes, or without waiting for any."""
    with call.connect() as connection:
        call.send(connection, Accept=EVENT_STREAM)
        if call.number % 2:
            connection.getresponse().read1(_PIECE)
    seen.end = "left"


def _malformed(call: Call, seen: Seen) -> None:
    draw = Random(call.number)
    body = bytearray(call.body)
    for _ in range(draw.randint(1, 8)):
        at = draw.randrange(len(body))
        body[at : at + draw.randint(0, 9)] = draw.randbytes(draw.randint(0, 9))
    spoiled = replace(call, body=bytes(body))
    with call.connect() as connection:
        spoiled.send(connection)
        answer = connection.getresponse()
        content = answer.read()
    seen.end = str(answer.status)
    if answer.status == http.client.OK:  # it was spoiled where it does not matter
        seen.end = "answered"
    elif answer.status not in _KNOWN or b'"code"' not in content:
        seen.faults.append(f"malformed {call.number}: {answer.status} {content[:200]!r}")


_MANNERS: dict[str, Callable[[Call, Seen], None]] = {
    "json": _json,
    "stream": _stream,
    "twice": _twice,
    "leaves": _leaves,
    "slow": _slow,
    "malformed": _malformed,
}


def _whole(call: Call, seen: Seen, answer: http.client.HTTPResponse) -> bytes:
    content = answer.read()
    if answer.status != http.client.OK:
        shown = content[:200].decode(errors="replace")
        seen.faults.append(f"{seen.manner} {call.number}: {answer.status} {shown}")
    return content


def _check_answer(call: Call, seen: Seen, content: bytes) -> None:
    """One valid answer: a line, deltas in range, flags only on the main path."""
    answer = msgspec.json.decode(content, type=Answer)
    meta = answer.meta
    seen.turn_id = meta.turn_id
    seen.end = meta.path if meta.reason is None else f"{meta.path} ({meta.reason})"
    is_right = (
        bool(answer.text.strip())
        and all(-1 <= value <= 1 for value in answer.delta.values())
        and (meta.valid or not any(answer.flags.values()))
        and meta.session_id == call.session
    )
    if not is_right:
        seen.faults.append(f"{seen.manner} {call.number}: {content[:300].decode()}")
