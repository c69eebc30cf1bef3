"""What `GET /npcs` tells of a world: who may be asked, and what a turn with each may turn on."""

from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import to_builtins

from rag.conditions import UNKNOWN_REPUTATION
from rag.documents import (
    ANY,
    BaseDocument,
    Conditions,
    FlagDef,
    Lore,
    NpcPersona,
    OneOf,
    TriggerDef,
)
from rag.language import detect_language
from rag.world import World


def npc_entries(world: World) -> list[dict[str, Any]]:
    """One entry for each NPC, in the order of the world's files."""
    all_items = _items(world, list(world.npcs))
    return [_entry(world, persona, all_items) for persona in world.npcs.values()]


def _entry(world: World, persona: NpcPersona, all_items: list[str]) -> dict[str, Any]:
    conditions = list(_conditions(_about(world, [persona.npc_id])))
    flags = [d for d in _about(world, [persona.npc_id]) if isinstance(d, FlagDef)]
    return {
        "npc_id": persona.npc_id,
        "name": persona.name,
        "lang": persona.lang,
        "about": persona.persona,
        "stages": persona.stages,
        "locations": persona.locations,
        "initial_state": to_builtins(persona.initial_state),
        "items": _once([*_items(world, [persona.npc_id]), *all_items]),
        "actions": _once(name for c in conditions for name in _needed_actions(c)),
        "moods": _once([persona.initial_state.npc_mood, *_asked(conditions, "npc_mood")]),
        "reputations": _once([UNKNOWN_REPUTATION, *_asked(conditions, "reputation")]),
        "flags": [_flag(d) for d in flags],
        "suggestions": list(_suggestions(flags)),
    }


def _flag(document: FlagDef) -> dict[str, Any]:
    return {
        "name": document.flag_name,
        "quest_stage": document.quest_stage,
        "location": document.location,
        "value": document.value,
        "text": document.text or None,
    }


def _suggestions(flags: Iterable[FlagDef]) -> Iterator[dict[str, Any]]:
    """For each flag's document its first example in each language: lines that may raise it."""
    for document in flags:
        by_lang = {detect_language(text, "ko"): text for text in document.examples_positive[::-1]}
        for lang, text in sorted(by_lang.items()):
            yield {
                "lang": lang,
                "flag": document.flag_name,
                "quest_stage": document.quest_stage,
                "location": document.location,
                "text": text,
            }


def _about(world: World, npc_ids: list[str]) -> Iterator[BaseDocument]:
    """The documents of these NPCs and of all."""
    return (d for d in world.documents if d.npc_id in (*npc_ids, ANY))


def _items(world: World, npc_ids: list[str]) -> list[str]:
    """The items that documents of these NPCs mention."""
    documents = list(_about(world, npc_ids))
    needed = (name for c in _conditions(documents) for name in _needed_items(c))
    told = (name for d in documents if isinstance(d, Lore) for name in d.items)
    return _once([*needed, *told])


def _conditions(documents: Iterable[BaseDocument]) -> Iterator[Conditions]:
    for document in documents:
        if isinstance(document, TriggerDef):
            yield from _with_exceptions(document.trigger)
        elif isinstance(document, FlagDef) and document.conditions:
            yield from _with_exceptions(document.conditions)


def _with_exceptions(conditions: Conditions) -> Iterator[Conditions]:
    yield conditions
    for exception in conditions.unless:
        yield from _with_exceptions(exception)


def _needed_items(conditions: Conditions) -> list[str]:
    return conditions.required_items.mandatory + conditions.required_items.optional


def _needed_actions(conditions: Conditions) -> list[str]:
    return conditions.required_actions.mandatory + conditions.required_actions.optional


def _asked(conditions: Iterable[Conditions], key: str) -> Iterator[str]:
    """The words that conditions ask of a mood or a reputation."""
    for needed in conditions:
        state: dict[str, OneOf] = {**needed.required_npc_state, **needed.required_player_state}
        choice = state.get(key, [])
        choices = choice if isinstance(choice, list) else [choice]
        yield from (word for word in choices if isinstance(word, str))


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
