"""What a sentence encoder is calibrated and measured with: labelled lines, questions, queries."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec

from rag.documents import Document, Lang, Questions
from train.dataset import DatasetError, TurnLabel, read_dataset

T = TypeVar("T")

HELD_OUT = 10
"""One question in so many is asked of the others, to measure with."""


class TriggerLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of `triggers/*.jsonl`: what a player said, and whether it is an attack."""

    text: Annotated[str, msgspec.Meta(min_length=1)]
    lang: Lang
    npc_id: str | None = None
    hostile: bool
    kind: str
    """threat, abuse …, or what makes a harmless line hard: idiom, quote, care …"""


class Query(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A line of `retrieval/queries.jsonl`: a question and the documents that answer it."""

    query: Annotated[str, msgspec.Meta(min_length=1)]
    lang: Lang
    npc_id: str | None = None
    """Who is asked; None: the whole world is searched."""
    scope: str
    relevant: Annotated[list[str], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Question:
    """A text and the document that it is about."""

    text: str
    about: str

    @property
    def is_held_out(self) -> bool:
        """Whether it measures rather than is found; by its words alone, so that it stays so."""
        return hashlib.sha256(self.text.encode()).digest()[0] % HELD_OUT == 0


_HARMLESS_TRUST = -0.1
"""From this labelled change of trust on, a remark of the dataset is no attack; below, it may be."""


def ordinary_remarks(turns: Iterable[TurnLabel]) -> list[TriggerLine]:
    """What players say in a dataset that never costs more than 0.1 of trust: each text once.

    Ordinary talk is what hard lines are not, and most of what a detector hears.
    """
    worst: dict[str, float] = {}
    first: dict[str, TurnLabel] = {}
    for turn in turns:
        text, trust = turn.player_utterance, turn.delta.get("trust", 0.0)
        worst[text] = min(worst.get(text, trust), trust)
        first.setdefault(text, turn)
    return [
        TriggerLine(
            text=text, lang=turn.lang, npc_id=turn.npc_id, hostile=False, kind="ordinary play"
        )
        for text, turn in first.items()
        if worst[text] >= _HARMLESS_TRUST
    ]


def read_ordinary(world: Path, split: str) -> list[TriggerLine]:
    """Ordinary remarks of a split of the world's dataset, if it has any. Raises DatasetError."""
    folder = world / "data"
    return ordinary_remarks(read_dataset(folder).get(split, ())) if folder.is_dir() else []


def read_lines(path: Path, schema: type[T]) -> list[T]:
    """Every line of a JSONL file. Raises DatasetError naming the line that is wrong."""
    lines = []
    try:
        raw = path.read_bytes().splitlines()
    except OSError as error:
        raise DatasetError(f"{path}: {error.strerror}") from error
    for number, line in enumerate(raw, 1):
        try:
            lines.append(msgspec.json.decode(line, type=schema))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DatasetError(f"{path}:{number}: {error}") from error
    return lines


def read_questions(documents: Sequence[Document]) -> list[Question]:
    """The questions of a world's `questions` documents."""
    return [
        Question(text, document.about)
        for document in documents
        if isinstance(document, Questions)
        for text in document.questions
    ]
