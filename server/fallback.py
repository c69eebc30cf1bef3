"""The authored way out: an NPC is never silent."""

import zlib
from collections import OrderedDict
from dataclasses import dataclass
from enum import StrEnum

from rag.documents import Fallback, FallbackStyle, Lang, TriggerMeta, localise
from server.turn import AskedTurn

SILENCE = "…"
"""Said when a world has no fallback line for the scene."""


class Reason(StrEnum):
    """Why a turn did not take the main path: what was said, what the world asks for, or a fault."""

    FORBIDDEN_TRIGGER = "forbidden_trigger"
    PRECHECK_FAILED = "precheck_failed"
    CONDITIONS_UNMET = "conditions_unmet"
    OVERLOADED = "overloaded"
    DEADLINE = "deadline"
    PROMPT_TOO_LONG = "prompt_too_long"
    ENGINE_ERROR = "engine_error"


@dataclass(frozen=True, slots=True)
class Bearing:
    """What the NPC does and feels while it falls back."""

    npc_action: str = ""
    npc_emotion: str = ""


class AuthoredLines:
    """Chooses authored lines: by the words said, but never one session's last line again.

    Remembers the last line of the newest `max_sessions` sessions; each belongs to its owner.
    """

    def __init__(self, max_sessions: int = 10_000) -> None:
        self._max_sessions = max_sessions
        self._last: OrderedDict[tuple[str, str, str], int] = OrderedDict()

    def choose(self, document: Fallback | None, turn: AskedTurn, owner: str) -> str:
        """A line of `document` that fits any utterance; SILENCE if it has none."""
        lines = document.lines if document else []
        if document is None or not lines:
            return SILENCE
        key = owner, turn.session_id, document.id
        choice = zlib.crc32(f"{turn.session_id}\n{turn.utterance}".encode()) % len(lines)
        if choice == self._last.pop(key, None):
            choice = (choice + 1) % len(lines)
        self._last[key] = choice
        if len(self._last) > self._max_sessions:
            self._last.popitem(last=False)
        return localise(lines[choice], turn.lang)


def bearing(document: Fallback | None, meta: TriggerMeta | None, lang: Lang) -> Bearing:
    """How the NPC carries itself: as the trigger's document says, else as the fallback's."""
    if meta is not None:
        return Bearing(localise(meta.npc_action, lang), meta.npc_emotion)
    style = document.fallback_style if document else FallbackStyle()
    return Bearing(localise(style.npc_action, lang), style.npc_emotion)


def situation(document: Fallback | None, meta: TriggerMeta | None, lang: Lang) -> str:
    """What the fallback prompt says of the moment: why she turns away, and how."""
    if document is None:
        return bearing(None, meta, lang).npc_action
    parts = (
        localise(document.content, lang),
        localise(document.fallback_style.style, lang),
        bearing(document, meta, lang).npc_action,
    )
    return "\n".join(part for part in parts if part)
