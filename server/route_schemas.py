"""What the routes around a turn answer: who can be asked, and how the server is."""

from typing import Literal

import msgspec

from rag.documents import Lang, Localised, Scalar
from server.schemas import NpcState


class NpcFlag(msgspec.Struct, frozen=True):
    """What one `flag_def` of an NPC gives."""

    name: str
    """Of the flag, as in an answer's `flags`."""
    quest_stage: str
    """Where it applies; `any` is everywhere."""
    location: str
    """Where it applies; `any` is everywhere."""
    value: Scalar | None
    """As in an answer's `flags_detail`."""
    text: Localised | None
    """As in an answer's `flags_detail`, in one language or in several."""


class Suggestion(msgspec.Struct, frozen=True):
    """Something a player may say."""

    lang: Lang
    """The language of the line."""
    flag: str
    """The flag that it is an example of."""
    quest_stage: str
    """Where that flag applies; `any` is everywhere."""
    location: str
    """Where that flag applies; `any` is everywhere."""
    text: str
    """The line."""


class NpcEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One NPC of the loaded world, and what a turn may turn on."""

    npc_id: str
    """What `/ask` calls the NPC."""
    name: Localised
    """In one language, or in several."""
    lang: Lang
    """The language that the NPC speaks if a conversation gives no hint."""
    about: Localised
    """Who the NPC is."""
    stages: list[str]
    """Quest stages, the first one first."""
    locations: list[str]
    """Places, the usual one first."""
    initial_state: NpcState
    """How the NPC feels about someone new."""
    items: list[str]
    """Items that documents mention, this NPC's before those of the others."""
    actions: list[str]
    """Actions that conditions ask for."""
    moods: list[str]
    """Moods that conditions ask for, and the first one."""
    reputations: list[str]
    """Reputations that conditions ask for."""
    flags: list[NpcFlag]
    """What each `flag_def` gives."""
    suggestions: list[Suggestion]
    """Lines that may raise a flag."""


class Alive(msgspec.Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"
    """Always the same."""


class Ready(msgspec.Struct, frozen=True):
    """The model answers."""

    bundle: str
    """Name and version of the model."""
    status: Literal["ready"] = "ready"
    """Always the same."""


class Reloaded(msgspec.Struct, frozen=True):
    """New turns begin with what was read."""

    bundle: str
    """Name and version of the model."""
    documents: int
    """How many the world has."""
    npcs: list[str]
    """Ids of the world's NPCs."""
    status: Literal["reloaded"] = "reloaded"
    """Always the same."""
