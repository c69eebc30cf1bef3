"""What an utterance calls to mind: the notes of an NPC that are near it in meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import numpy.typing as npt

from rag.calibration import Calibration
from rag.documents import ANY, DialogueTurn, Lang, Lore, localise
from rag.embedder import Embedder
from rag.index import Letters, Match, Rows, Vector, WorldIndex
from rag.scopes import Scene
from rag.searchable import Note
from runtime.encoder import PromptEncoder

NUM_CANDIDATES = 12
"""Notes that are ranked; the prompt's budget decides how many of them are shown."""
NOTE_TOKENS = 160
"""The budget of notes for a turn, where none is set."""


_NOWHERE, _NEVER = -1, -2
"""Codes of what no note names, and of notes that are never told."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """A note that was ranked, how much nearer it is than anything is, whether it may be shown."""

    match: Match
    lead: float
    is_near: bool


@dataclass(frozen=True)
class Retriever:
    """An encoder, what it made of a world, and what its cosines mean."""

    embedder: Embedder
    index: WorldIndex
    calibration: Calibration

    @cached_property
    def centre(self) -> Vector:
        """The calibration's centre; zeros without one."""
        return np.asarray(self.calibration.centre or [0.0] * self.embedder.dim, np.float32)

    @cached_property
    def _scopes(self) -> "_Scopes":
        return _scopes_of(self.index.documents)

    def encode(self, text: str) -> Vector:
        """The unit vector of a text, float32 [dim]."""
        vector: Vector = self.embedder.encode([text])[0]
        return vector

    def letters(self, text: str) -> Letters:
        """What the letters of `text` count when documents are found by it."""
        return Letters(text, self.calibration.letters)

    def notes(self, text: str, vector: Vector, scene: Scene, lang: Lang) -> list[Match]:
        """Lore and model dialogues that may be told at `scene`, best first, far ones too.

        `vector` is that of `text`.
        """
        wanted = partial(self._scopes.may_tell, scene=scene, lang=lang)
        return self.index.near(vector, scene.npc_id, NUM_CANDIDATES, wanted, self.letters(text))

    def weighed(self, matches: Sequence[Match], vector: Vector) -> list[Recalled]:
        """Each note with its lead, and whether it is worth showing.

        It is if it leads, or is known by words that mean the same.
        """
        common, bounds = float(vector @ self.centre), self.calibration
        return [
            Recalled(
                match,
                lead := match.score - common,
                is_near=lead >= bounds.note or match.nearest >= bounds.same,
            )
            for match in matches
        ]

    def near(self, matches: Sequence[Match], vector: Vector) -> list[Match]:
        """Those of `matches` that are worth showing."""
        return [found.match for found in self.weighed(matches, vector) if found.is_near]


@dataclass(frozen=True, slots=True)
class _Scopes:
    """Where notes may be told: `codes` int32 [3, n] of stage, place and language, 0 for any."""

    codes: npt.NDArray[np.int32]
    numbers: tuple[dict[str, int], dict[str, int], dict[str, int]]

    def may_tell(self, rows: Rows, scene: Scene, lang: Lang) -> npt.NDArray[np.bool_]:
        """Whether the notes at `rows` belong to the scene."""
        named = zip(self.numbers, (scene.quest_stage, scene.location, lang), strict=True)
        told = np.ones(len(rows), bool)
        for codes, (numbers, name) in zip(self.codes, named, strict=True):
            found = codes[rows]
            told &= (found == 0) | (found == numbers.get(name, _NOWHERE))
        return told


def _scopes_of(notes: Sequence[Note]) -> _Scopes:
    """The scopes of `notes`.

    A place on lore is what it is about, not where it may be told; descriptions are looked up by
    scope, never by meaning, or a later stage would spoil an earlier one.
    """
    numbers: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({ANY: 0}, {ANY: 0}, {ANY: 0})
    codes = np.zeros((len(numbers), len(notes)), np.int32)
    for row, note in enumerate(notes):
        told_at = (note.quest_stage, ANY, ANY)
        if isinstance(note, DialogueTurn):
            told_at = (note.quest_stage, note.location, note.lang)
        elif not isinstance(note, Lore):
            codes[:, row] = _NEVER
            continue
        codes[:, row] = [
            known.setdefault(name, len(known)) for known, name in zip(numbers, told_at, strict=True)
        ]
    return _Scopes(codes, numbers)


def note_text(note: Note, lang: Lang) -> str:
    """A note as a prompt tells it."""
    if isinstance(note, DialogueTurn):
        return f"{note.player} → {note.npc}"
    return localise(note.content, lang)


def fitting_notes(
    matches: Sequence[Match], lang: Lang, encoder: PromptEncoder, budget: int
) -> list[Match]:
    """The first of `matches` whose texts together take at most `budget` tokens."""
    chosen: list[Match] = []
    for match in matches:
        size = len(encoder.encode([note_text(match.document, lang)]))
        if size <= budget:
            chosen.append(match)
            budget -= size
    return chosen


def note_ids(matches: Sequence[Match]) -> list[str]:
    """The ids of the documents found, in order."""
    return [match.document.id for match in matches]
