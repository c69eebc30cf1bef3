"""What of a world is found by meaning: the texts that an utterance is compared with."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, get_args

from rag.documents import (
    ANY,
    Description,
    DialogueTurn,
    Document,
    FlagDef,
    ForbiddenTriggerList,
    Localised,
    Lore,
    MainResValidate,
    Questions,
)

Note: TypeAlias = Lore | Description | DialogueTurn
"""What a prompt may be given because of what a player said."""


@dataclass(frozen=True, slots=True)
class Passage:
    """One text under which a document is found."""

    text: str
    document: Note


@dataclass(frozen=True, slots=True)
class Searchable:
    """All texts of a world that need a vector.

    `notes` are what retrieval searches; `others` are compared inside one scene: triggers, examples
    of flags, examples of lines.
    """

    notes: list[Passage]
    others: list[str]

    def by_document(self) -> list[list[str]]:
        """The passages of each document, in the order in which the documents come."""
        passages: dict[int, list[str]] = defaultdict(list)
        for passage in self.notes:
            passages[id(passage.document)].append(passage.text)
        return [*passages.values()]

    def texts(self) -> list[str]:
        """Every text once, in a fixed order."""
        return list(dict.fromkeys([*(passage.text for passage in self.notes), *self.others]))


def searchable(documents: Sequence[Document]) -> Searchable:
    """The passages of `documents`, those of one NPC together."""
    asked: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        if isinstance(document, Questions):
            asked[document.about] += document.questions
    by_npc: dict[str, list[Passage]] = defaultdict(list)
    others: list[str] = []
    for document in documents:
        if isinstance(document, get_args(Note)):
            texts = dict.fromkeys([*_note_texts(document), *asked[document.id]])
            by_npc[document.npc_id] += [Passage(text, document) for text in texts]
        others += example_texts(document)
    return Searchable([passage for npc in sorted(by_npc) for passage in by_npc[npc]], others)


def example_texts(document: Document) -> list[str]:
    """Examples that a document is applied by."""
    if isinstance(document, ForbiddenTriggerList):
        return document.triggers.text
    if isinstance(document, FlagDef | MainResValidate):
        return [*document.examples_positive, *document.examples_negative]
    return []


def _note_texts(document: Document) -> Iterator[str]:
    if isinstance(document, DialogueTurn):
        yield document.player
    elif isinstance(document, Lore):
        yield from _each_language(document.title, document.content)
    elif isinstance(document, Description):
        yield from _each_language(document.content)


def _each_language(*parts: Localised) -> Iterable[str]:
    """The parts joined, once for each language that any of them is written in."""
    langs = dict.fromkeys(lang for part in parts if isinstance(part, dict) for lang in part)
    for lang in langs or [None]:
        words = [part if isinstance(part, str) else part.get(lang, "") for part in parts]  # type: ignore[arg-type]
        yield ". ".join(word for word in words if word)


def is_of(document: Document, npc_id: str) -> bool:
    """Whether a document is the NPC's own, or everybody's."""
    return document.npc_id in (npc_id, ANY)
