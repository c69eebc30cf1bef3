"""What a request's `npc_config` says of an NPC.

All of it counts where the world marks the NPC as open, else what the world has not written.
"""

from typing import Any

from msgspec import structs

from rag.documents import Localised, NpcPersona
from rag.documents import NpcState as InitialState
from server.preprocess import clean_text
from server.schemas import NpcConfig, NpcState

_TEXTS = ("name", "persona", "style", "lore")


def configured(persona: NpcPersona, config: NpcConfig) -> NpcPersona:
    """`persona` as `config` has it; the same object where that changes nothing."""
    changes: dict[str, Any] = {}
    for name in _TEXTS:
        written, text = getattr(persona, name), _cleaned(getattr(config, name))
        if text and text != written and (persona.is_open or not written):
            changes[name] = text
    is_unwritten = persona.initial_state == InitialState()
    if config.initial_state is not None and (persona.is_open or is_unwritten):
        initial = _merged(persona.initial_state, config.initial_state)
        if initial != persona.initial_state:
            changes["initial_state"] = initial
    return structs.replace(persona, **changes) if changes else persona


def _cleaned(text: Localised | None) -> Localised:
    if text is None:
        return ""
    if isinstance(text, str):
        return clean_text(text)
    cleaned = {lang: clean_text(each) for lang, each in text.items()}
    return {lang: each for lang, each in cleaned.items() if each}


def _merged(initial: InitialState, given: NpcState) -> InitialState:
    told = {name: value for name, value in structs.asdict(given).items() if value is not None}
    return structs.replace(initial, **told)
