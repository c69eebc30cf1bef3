"""Whether a document's conditions hold, and what exactly does not."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

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
    """What is asked about, such as `trust`."""
    needed: str
    """What the document asks for."""
    found: str
    """What the turn has."""


class Checked(msgspec.Struct, frozen=True):
    """One condition held against the facts."""

    key: str
    """What is asked about, such as `trust`."""
    needed: str
    """What the document asks for."""
    found: str
    """What the turn has."""
    holds: bool
    """Whether the one meets the other."""


def unmet(conditions: Conditions, facts: Facts) -> list[Unmet]:
    """Everything in `conditions` that does not hold; an empty list means that all holds."""
    gaps = [
        Unmet(test.key, *test.words())
        for test in _requirements(conditions, facts)
        if not test.holds
    ]
    for number, exception in enumerate(conditions.unless):
        if not unmet(exception, facts):
            gaps.append(Unmet(f"unless[{number}]", f"not {_summary(exception)}", "holds"))
    return gaps


def checked(conditions: Conditions, facts: Facts) -> Iterator[Checked]:
    """Every condition in `conditions`, whether it holds and what was found."""
    for test in _requirements(conditions, facts):
        yield Checked(test.key, *test.words(), test.holds)
    yield from _exceptions(conditions, facts)


class _Test(NamedTuple):
    """A condition held against the facts; most hold, and nobody asks for their words."""

    key: str
    holds: bool
    words: Callable[[], tuple[str, str]]
    """What is needed and what was found."""


def _requirements(needed: Conditions, facts: Facts) -> Iterator[_Test]:
    if needed.required_text:
        said = facts.utterance.casefold()
        holds = any(text.casefold() in said for text in needed.required_text)
        words = partial(_text_words, needed.required_text, facts.utterance)
        yield _Test("required_text", holds, words)
    for key, names, found in (
        ("required_items", needed.required_items, facts.items),
        ("required_actions", needed.required_actions, facts.actions),
    ):
        if names.mandatory or names.optional:
            yield from _names(key, names, found)
    if needed.required_game_state:
        yield from _values("required_game_state", needed.required_game_state, facts.all_game_state)
    if needed.required_npc_state:
        yield from _values("required_npc_state", needed.required_npc_state, facts.npc_state)
    if needed.required_player_state:
        yield from _values(
            "required_player_state", needed.required_player_state, facts.player_state
        )
    for name, bound in needed.required_delta.mandatory.items():
        value = facts.npc_state.get(name)
        holds = isinstance(value, int | float) and value >= bound
        yield _Test(f"required_delta.{name}", holds, partial(_bound_words, bound, value))


def _names(key: str, needed: NeededNames, found: Collection[str]) -> Iterator[_Test]:
    if needed.mandatory:
        missing = [name for name in needed.mandatory if name not in found]
        words = partial(_name_words, ", ", missing or needed.mandatory, found)
        yield _Test(f"{key}.mandatory", not missing, words)
    if needed.optional:
        holds = any(name in found for name in needed.optional)
        yield _Test(f"{key}.optional", holds, partial(_name_words, " | ", needed.optional, found))


def _values(key: str, needed: Mapping[str, OneOf], found: Mapping[str, Scalar]) -> Iterator[_Test]:
    for name, choice in needed.items():
        choices = choice if isinstance(choice, list) else [choice]
        value = found.get(name)
        holds = any(_same(value, wanted) for wanted in choices)
        yield _Test(f"{key}.{name}", holds, partial(_value_words, choices, value))


def _text_words(needed: Sequence[str], said: str) -> tuple[str, str]:
    return " | ".join(needed), said


def _bound_words(bound: float, value: Scalar | None) -> tuple[str, str]:
    return f">= {bound}", _written(value)


def _name_words(between: str, needed: Sequence[str], found: Collection[str]) -> tuple[str, str]:
    return between.join(needed), ", ".join(sorted(found)) or "nothing"


def _value_words(choices: Sequence[Scalar], value: Scalar | None) -> tuple[str, str]:
    return " | ".join(map(_written, choices)), _written(value)


def _exceptions(conditions: Conditions, facts: Facts) -> Iterator[Checked]:
    for number, exception in enumerate(conditions.unless):
        is_met = not unmet(exception, facts)
        found = "holds" if is_met else "does not hold"
        yield Checked(f"unless[{number}]", f"not {_summary(exception)}", found, not is_met)


def _summary(conditions: Conditions) -> str:
    """All that the conditions ask for, e.g. `required_npc_state.npc_mood hostile`."""
    nothing = Facts(Scene(ANY))
    return " and ".join(f"{check.key} {check.needed}" for check in checked(conditions, nothing))


def _same(found: Scalar | None, wanted: Scalar) -> bool:
    """Equal, and a truth value only to a truth value: 1 is not true."""
    return isinstance(found, bool) == isinstance(wanted, bool) and found == wanted


def _written(value: Scalar | None) -> str:
    if value is None:
        return "nothing"
    return str(value).lower() if isinstance(value, bool) else str(value)
