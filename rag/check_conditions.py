"""Whether a world's conditions can hold: items that exist, values that are sent, known scenes."""

import json
import re
from collections.abc import Collection, Hashable, Iterator
from difflib import get_close_matches
from functools import cached_property

import msgspec

from rag.book import Book, one_of, values_of
from rag.conditions import NPC_STATE_KEYS, NPC_VALUES, PLAYER_STATE_KEYS
from rag.documents import (
    ANY,
    BaseDocument,
    Conditions,
    FlagDef,
    Lore,
    NeededNames,
    OneOf,
    Scalar,
    TriggerDef,
)
from rag.loader import Problem

_STATES = ("required_game_state", "required_npc_state", "required_player_state")
_WORD_START, _WORD_END = re.compile(r"(?<![^\W가-힣])"), re.compile(r"(?:e?s)?(?![^\W가-힣])")
_NOT_TEXT = {
    "id",
    "about",
    "npc_id",
    "quest_stage",
    "location",
    "comment",
    "trigger",
    "conditions",
    "flag_name",
    "items",
    "value",
}


def check_conditions(book: Book) -> Iterator[Problem]:
    """What asks for something that no game can send, or that never holds where it applies."""
    items = _Items(book)
    for document in book.documents:
        if isinstance(document, TriggerDef):
            yield from _condition(book, document, document.trigger, "trigger", items)
        elif isinstance(document, FlagDef) and document.conditions:
            yield from _condition(book, document, document.conditions, "conditions", items)


class _Items:
    """The items that a world gives, names or describes, its conditions left out."""

    def __init__(self, book: Book) -> None:
        self._names: set[str] = set()
        for document in book.documents:
            if isinstance(document, Lore):
                self._names |= {*document.items}
            elif isinstance(document, FlagDef) and document.value is not None:
                self._names.add(str(document.value))
        self._alike = {_words(name): name for name in sorted(self._names)}
        self._book = book
        self._found: dict[str, bool] = {}

    def is_known(self, name: str) -> bool:
        """Whether a document has exactly this name, or a text has it in whole words.

        `lamp_wick` stands in "the lamp wicks" too, unless a document names the "Lamp_Wick".
        """
        if name in self._names:
            return True
        if name not in self._found:
            words = _words(name)
            self._found[name] = words not in self._alike and _stands_in(self._text, words)
        return self._found[name]

    def remedy(self, name: str) -> str:
        """What to do about a name that is not known."""
        close = get_close_matches(_words(name), self._alike, n=1, cutoff=0.8)
        if close:
            return f"did you mean {self._alike[close[0]]!r}? Names are told apart letter by letter"
        return "give it in a flag_def's value, or name it in `items` of a lore document"

    @cached_property
    def _text(self) -> str:
        """All texts, each in a line, as `_words` writes them."""
        parts: list[str] = []
        for document in self._book.documents:
            for key, value in values_of(document):
                if re.split(r"[.\[]", key, maxsplit=1)[0] not in _NOT_TEXT:
                    parts += map(str, value.values()) if isinstance(value, dict) else [str(value)]
        return "\n".join(map(_words, parts))


def _words(text: str) -> str:
    """A name or text with one space between words, in small letters."""
    return " ".join(text.casefold().replace("_", " ").split())


def _stands_in(text: str, words: str) -> bool:
    """Whether `text` has the `words` as whole ones, or in the plural.

    Hangul may stand before and after them: compounds and particles are written as one word.
    """
    start = text.find(words)
    while start >= 0:
        if _WORD_START.match(text, start) and _WORD_END.match(text, start + len(words)):
            return True
        start = text.find(words, start + 1)
    return False


def _condition(
    book: Book, document: BaseDocument, conditions: Conditions, at: str, items: _Items
) -> Iterator[Problem]:
    for key in ("mandatory", "optional"):
        for name in getattr(conditions.required_items, key):
            if not items.is_known(name):
                what = f"no document gives or describes the item {name!r}"
                remedy = items.remedy(name)
                yield book.problem(document, f"{at}.required_items.{key}", what, remedy)
    for key, names, known in (
        ("required_delta.mandatory", conditions.required_delta.mandatory, NPC_VALUES),
        ("required_npc_state", conditions.required_npc_state, NPC_STATE_KEYS),
        ("required_player_state", conditions.required_player_state, PLAYER_STATE_KEYS),
    ):
        for name in names:
            if name not in known:
                what = f"no request sends {name!r} there"
                yield book.problem(document, f"{at}.{key}", what, one_of(name, known))
    yield from _states(book, document, conditions, at)
    yield from _required_scene(book, document, conditions, f"{at}.required_game_state")
    given = _in_scope(conditions, document)
    for number, exception in enumerate(conditions.unless):
        here = f"{at}.unless[{number}]"
        if exception == Conditions():
            what = "is empty, so it always holds and the rest never does"
            yield book.problem(document, here, what, "write a condition into it, or remove it")
        elif _implies(given, exception):
            what = "holds wherever the rest does, so that the whole never holds"
            yield book.problem(document, here, what, "ask for something else in one of them")
        yield from _condition(book, document, exception, here, items)


def _states(
    book: Book, document: BaseDocument, conditions: Conditions, at: str
) -> Iterator[Problem]:
    """States of which no value will do, or that never have a value that is asked for."""
    for part in _STATES:
        for name, choice in getattr(conditions, part).items():
            key = f"{at}.{part}.{name}"
            if not _choices(choice):
                what = "names no value, so that it never holds"
                yield book.problem(document, key, what, "name one, or remove the key")
            for value in _choices(choice):
                if remedy := _remedy_for(part, name, value):
                    what = f"{name} is never {json.dumps(value, ensure_ascii=False)}"
                    yield book.problem(document, key, what, remedy)


def _remedy_for(part: str, name: str, value: Scalar) -> str | None:
    """What a state may be, where it can't be `value`; a game's own states may be anything."""
    if part == "required_game_state":
        return None
    if name in NPC_VALUES:
        is_in_range = not isinstance(value, str | bool) and -1 <= value <= 1
        return None if is_in_range else "write a number from -1 to 1"
    is_text = name in {*NPC_STATE_KEYS, *PLAYER_STATE_KEYS}
    return "write a text in quotes" if is_text and not isinstance(value, str) else None


def _required_scene(
    book: Book, document: BaseDocument, conditions: Conditions, at: str
) -> Iterator[Problem]:
    for key in conditions.required_game_state.keys() & {"quest_stage", "location"}:
        names, choices = book.names(key), _choices(conditions.required_game_state[key])
        for value in choices:
            if value not in names:
                what = f"{value!r} is no {key} of this world"
                yield book.problem(document, f"{at}.{key}", what, one_of(str(value), names))
        if choices and (scope := getattr(document, key)) not in (ANY, *choices):
            what = f"never holds: the document applies only at {key} {scope!r}"
            yield book.problem(document, f"{at}.{key}", what, "remove it")


def _in_scope(conditions: Conditions, document: BaseDocument) -> Conditions:
    """`conditions` with the stage and place that the document is for."""
    scope: dict[str, OneOf] = {
        key: value
        for key in ("quest_stage", "location")
        if (value := getattr(document, key)) != ANY
    }
    state = {**scope, **conditions.required_game_state}
    return msgspec.structs.replace(conditions, required_game_state=state)


def _implies(given: Conditions, asked: Conditions) -> bool:
    """Whether all that is asked holds wherever what is given does; only its own exceptions may not.

    Each key is held against the same key alone.
    """
    bounds, least = asked.required_delta.mandatory, given.required_delta.mandatory
    return (
        not asked.unless
        and _implies_one(given.required_text, asked.required_text)
        and _implies_names(given.required_items, asked.required_items)
        and _implies_names(given.required_actions, asked.required_actions)
        and all(name in least and least[name] >= bound for name, bound in bounds.items())
        and all(
            bool(_choices(choice))  # a choice of none never holds
            and _implies_one(_typed(getattr(given, part).get(name, [])), _typed(choice))
            for part in _STATES
            for name, choice in getattr(asked, part).items()
        )
    )


def _implies_names(given: NeededNames, asked: NeededNames) -> bool:
    is_one_there = not {*given.mandatory}.isdisjoint(asked.optional)
    is_one_sure = is_one_there or _implies_one(given.optional, asked.optional)
    return {*asked.mandatory} <= {*given.mandatory} and is_one_sure


def _implies_one(given: Collection[Hashable], asked: Collection[Hashable]) -> bool:
    """Whether one of the asked holds wherever one of the given does; nothing asked always does."""
    return not asked or (bool(given) and {*given} <= {*asked})


def _typed(choice: OneOf) -> list[tuple[bool, Scalar]]:
    """The values of a choice, of which true is not 1."""
    return [(isinstance(value, bool), value) for value in _choices(choice)]


def _choices(choice: OneOf) -> list[Scalar]:
    return choice if isinstance(choice, list) else [choice]
