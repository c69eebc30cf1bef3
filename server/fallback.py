"""The authored way out: an NPC is never silent."""

import zlib
from dataclasses import dataclass
from enum import StrEnum

from rag.documents import localise
from rag.world import World
from server.turn import AskedTurn

SILENCE = "…"
"""Said when a world has no fallback line for the scene."""


class Reason(StrEnum):
    """Why a turn did not take the main path."""

    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    PROMPT_TOO_LONG = "prompt_too_long"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, slots=True)
class AuthoredLine:
    """A line of the world's `fallback` document, and how the NPC carries itself."""

    text: str
    npc_action: str = ""
    npc_emotion: str = ""


def authored_line(world: World, turn: AskedTurn) -> AuthoredLine:
    """A line that fits any utterance at the turn's scene; the same one for the same words."""
    document = world.fallback(turn.scene)
    if document is None or not document.lines:
        return AuthoredLine(SILENCE)
    choice = zlib.crc32(f"{turn.session_id}\n{turn.utterance}".encode()) % len(document.lines)
    style = document.fallback_style
    return AuthoredLine(
        localise(document.lines[choice], turn.lang),
        localise(style.npc_action, turn.lang),
        style.npc_emotion,
    )
