"""Bodies of `/ask` as a game server sends them, made from what players say in a dataset."""

from collections.abc import Iterator, Sequence
from itertools import count

import msgspec

from bench.players import by_voice, conversations_of
from bench.turn_script import make_ask
from server.schemas import HistoryTurn
from train.dataset import TurnLabel


def make_body(
    line: TurnLabel,
    session_id: str,
    *,
    is_first: bool,
    max_tokens: int,
    precheck_passed: bool | None = None,
) -> bytes:
    """One request in JSON: the first of a session, or one that goes on from what is remembered."""
    ask = make_ask(line, session_id, [], max_tokens)
    history: list[HistoryTurn] | None = [] if is_first else None
    return msgspec.json.encode(
        msgspec.structs.replace(ask, dialogue_history=history, precheck_passed=precheck_passed)
    )


def endless_bodies(
    turns: Sequence[TurnLabel], name: str, *, seed: int, max_tokens: int
) -> Iterator[bytes]:
    """Conversation after conversation, each in a session of its own under `name`.

    The same seed gives the same words; the world's conditions and triggers have their say.
    """
    for number, lines in zip(count(), conversations_of(turns, seed), strict=False):
        for at, line in enumerate(lines):
            yield make_body(line, f"{name} {number}", is_first=at == 0, max_tokens=max_tokens)


def session_bodies(
    turns: Sequence[TurnLabel], num_sessions: int, *, max_tokens: int
) -> Iterator[bytes]:
    """One turn of each session after another, over and over; a session stays with its NPC.

    The game's word opens the main path, so that every turn but a forbidden one has a state.
    """
    voices = by_voice(turns)
    for at in count():
        round_number, session = divmod(at, num_sessions)
        own = voices[session % len(voices)]
        line = own[(session + round_number) % len(own)]
        yield make_body(
            line,
            f"session {session}",
            is_first=round_number == 0,
            max_tokens=max_tokens,
            precheck_passed=True,
        )
