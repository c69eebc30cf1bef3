"""Authored lines: each session hears another each time, whoever else asks."""

import msgspec

from rag.documents import Document
from rag.world import World
from server.fallback import AuthoredLines
from server.schemas import AskRequest
from server.turn import AskedTurn, read_turn
from tests.server.small_world import DOCUMENTS

WORLD = World(msgspec.convert(document, Document) for document in DOCUMENTS)


def turn() -> AskedTurn:
    ask = AskRequest(text="hello", npc_id="mina", player_id="p1", session_id="the same")
    return read_turn(ask, WORLD)


def line(lines: AuthoredLines, owner: str) -> str:
    return lines.choose(WORLD.fallback(turn().scene), turn(), owner)


def test_what_one_owner_heard_is_nothing_to_another_with_the_same_session() -> None:
    lines = AuthoredLines()
    alone = [line(AuthoredLines(), "one") for _ in range(2)]
    assert line(lines, "one") == alone[0]
    assert line(lines, "two") == alone[0]
    assert line(lines, "one") != alone[0]
