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


def configured(persona: NpcPersona, config: NpcConfig) -> tuple[NpcPersona, list[str]]:
    """`persona` as `config` has it, and a sentence for each field that has no effect.

    It is the same object where nothing changes.
    """
    changes: dict[str, Any] = {}
    notices = []
    for name, value in _differences(persona, config).items():
        is_written = getattr(persona, name) not in ("", InitialState())
        if persona.is_open or not is_written:
            changes[name] = value
        else:
            notices.append(
                f"context.npc_config.{name} has no effect: the world has written it, and does not "
                "mark the NPC as open (is_open)"
            )
    return (structs.replace(persona, **changes) if changes else persona), notices


def _differences(persona: NpcPersona, config: NpcConfig) -> dict[str, Any]:
    """What `config` would have otherwise."""
    texts = {name: _merged(getattr(persona, name), getattr(config, name)) for name in _TEXTS}
    given = {**texts, "initial_state": _merged_state(persona.initial_state, config.initial_state)}
    return {name: value for name, value in given.items() if value != getattr(persona, name)}


def _merged(written: Localised, given: Localised | None) -> Localised:
    """The text that is given, and in other languages the one that is written."""
    if given is None:
        return written
    if isinstance(given, str):
        return clean_text(given) or written
    cleaned = {lang: clean_text(text) for lang, text in given.items()}
    told = {lang: text for lang, text in cleaned.items() if text}
    return {**written, **told} if isinstance(written, dict) else told or written


def _merged_state(initial: InitialState, given: NpcState | None) -> InitialState:
    told = {} if given is None else structs.asdict(given)
    return structs.replace(initial, **{k: value for k, value in told.items() if value is not None})
