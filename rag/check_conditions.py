"""Whether a world's conditions can hold: items that exist, values that are sent, known scenes."""

from collections.abc import Iterator

from rag.book import Book, one_of, values_of
from rag.conditions import NPC_STATE_KEYS, NPC_VALUES, PLAYER_STATE_KEYS
from rag.documents import ANY, BaseDocument, Conditions, FlagDef, Lore, TriggerDef
from rag.loader import Problem

_WORDS_NOT_TEXT = {
    "id",
    "about",
    "npc_id",
    "quest_stage",
    "location",
    "comment",
    "trigger",
    "flag_name",
}


def check_conditions(book: Book) -> Iterator[Problem]:
    """What asks for something that no game can send, or that never holds where it applies."""
    is_mentioned = _Mentions(book)
    for document in book.documents:
        if isinstance(document, TriggerDef):
            yield from _condition(book, document, document.trigger, "trigger", is_mentioned)
        elif isinstance(document, FlagDef) and document.conditions:
            yield from _condition(book, document, document.conditions, "conditions", is_mentioned)


class _Mentions:
    """Whether a name stands in any value or text of the world, its conditions left out.

    `lamp_wick` stands in "the lamp wick" too.
    """

    def __init__(self, book: Book) -> None:
        self._names: dict[str, bool] = {}
        for document in book.documents:
            names = [*document.items] if isinstance(document, Lore) else []
            names += [str(document.value)] if isinstance(document, FlagDef) else []
            self._names |= dict.fromkeys((name.casefold() for name in names), True)
        self._book, self._text = book, ""

    def __call__(self, name: str) -> bool:
        name = name.casefold()
        if name not in self._names:
            self._text = self._text or self._all_text()
            self._names[name] = name in self._text or name.replace("_", " ") in self._text
        return self._names[name]

    def _all_text(self) -> str:
        parts: list[str] = []
        for document in self._book.documents:
            for key, value in values_of(document):
                if key.split(".")[0] not in {"trigger", "conditions", *_WORDS_NOT_TEXT}:
                    parts += map(str, value.values()) if isinstance(value, dict) else [str(value)]
        return "\n".join(parts).casefold()


def _condition(
    book: Book, document: BaseDocument, conditions: Conditions, at: str, is_mentioned: _Mentions
) -> Iterator[Problem]:
    items = conditions.required_items
    for key in ("mandatory", "optional"):
        for name in getattr(items, key):
            if not is_mentioned(name):
                what = f"no document gives or describes the item {name!r}"
                remedy = "give it in a flag_def's value, or name it in `items` of a lore document"
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
    yield from _required_scene(book, document, conditions, f"{at}.required_game_state")
    for number, exception in enumerate(conditions.unless):
        here = f"{at}.unless[{number}]"
        if exception == Conditions():
            what = "is empty, so it always holds and the rest never does"
            yield book.problem(document, here, what, "write a condition into it, or remove it")
        yield from _condition(book, document, exception, here, is_mentioned)


def _required_scene(
    book: Book, document: BaseDocument, conditions: Conditions, at: str
) -> Iterator[Problem]:
    for key in conditions.required_game_state.keys() & {"quest_stage", "location"}:
        names, choice = book.names(key), conditions.required_game_state[key]
        choices = choice if isinstance(choice, list) else [choice]
        for value in choices:
            if value not in names:
                what = f"{value!r} is no {key} of this world"
                yield book.problem(document, f"{at}.{key}", what, one_of(str(value), names))
        if (scope := getattr(document, key)) not in (ANY, *choices):
            what = f"never holds: the document applies only at {key} {scope!r}"
            yield book.problem(document, f"{at}.{key}", what, "remove it")
