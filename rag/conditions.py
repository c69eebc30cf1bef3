"""Whether a document's conditions hold, and what exactly does not."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from rag.documents import ANY, Conditions, NeededNames, OneOf, Scalar
from rag.scopes import Scene

NPC_VALUES = ("trust", "relationship")
NPC_STATE_KEYS = (*NPC_VALUES, "npc_mood")
PLAYER_STATE_KEYS = ("reputation", "position")
UNKNOWN_REPUTATION = "unknown"
"""What a player is to an NPC when the game says nothing."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are compared with: the state of the game as the turn begins."""

    scene: Scene
    utterance: str = ""
    items: Collection[str] = ()
    actions: Collection[str] = ()
    game_state: Mapping[str, Scalar] = field(default_factory=dict)
    npc_state: Mapping[str, Scalar] = field(default_factory=dict)
    player_state: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def all_game_state(self) -> Mapping[str, Scalar]:
        """The game state with the stage and place of the scene."""
        scene = {"quest_stage": self.scene.quest_stage, "location": self.scene.location}
        return {**self.game_state, **scene}


class Unmet(msgspec.Struct, frozen=True):
    """One condition that does not hold: its key, what it asks for, and what was found."""

    key: str
    needed: str
    found: str


def unmet(conditions: Conditions, facts: Facts) -> list[Unmet]:
    """Everything in `conditions` that does not hold; an empty list means that all holds."""
    return [*_unmet_requirements(conditions, facts), *_exceptions_met(conditions, facts)]


def _unmet_requirements(needed: Conditions, facts: Facts) -> Iterator[Unmet]:
    if needed.required_text:
        said = facts.utterance.casefold()
        if not any(text.casefold() in said for text in needed.required_text):
            yield Unmet("required_text", " | ".join(needed.required_text), facts.utterance)
    yield from _unmet_names("required_items", needed.required_items, facts.items)
    yield from _unmet_names("required_actions", needed.required_actions, facts.actions)
    for key, values, found in (
        ("required_game_state", needed.required_game_state, facts.all_game_state),
        ("required_npc_state", needed.required_npc_state, facts.npc_state),
        ("required_player_state", needed.required_player_state, facts.player_state),
    ):
        yield from _unmet_values(key, values, found)
    for name, bound in needed.required_delta.mandatory.items():
        value = facts.npc_state.get(name)
        if not isinstance(value, int | float) or value < bound:
            yield Unmet(f"required_delta.{name}", f">= {bound}", _written(value))


def _unmet_names(key: str, needed: NeededNames, found: Collection[str]) -> Iterator[Unmet]:
    held = ", ".join(sorted(found)) or "nothing"
    if missing := [name for name in needed.mandatory if name not in found]:
        yield Unmet(f"{key}.mandatory", ", ".join(missing), held)
    if needed.optional and not any(name in found for name in needed.optional):
        yield Unmet(f"{key}.optional", " | ".join(needed.optional), held)


def _unmet_values(
    key: str, needed: Mapping[str, OneOf], found: Mapping[str, Scalar]
) -> Iterator[Unmet]:
    for name, choice in needed.items():
        choices = choice if isinstance(choice, list) else [choice]
        value = found.get(name)
        if not any(_same(value, wanted) for wanted in choices):
            yield Unmet(f"{key}.{name}", " | ".join(map(_written, choices)), _written(value))


def _exceptions_met(conditions: Conditions, facts: Facts) -> Iterator[Unmet]:
    for number, exception in enumerate(conditions.unless):
        if not unmet(exception, facts):
            yield Unmet(f"unless[{number}]", f"not {_summary(exception)}", "holds")


def _summary(conditions: Conditions) -> str:
    """All that the conditions ask for, e.g. `required_npc_state.npc_mood hostile`."""
    return " and ".join(f"{gap.key} {gap.needed}" for gap in unmet(conditions, Facts(Scene(ANY))))


def _same(found: Scalar | None, wanted: Scalar) -> bool:
    """Equal, and a truth value only to a truth value: 1 is not true."""
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _written(value: Scalar | None) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
