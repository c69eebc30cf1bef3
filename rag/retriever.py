"""What an utterance calls to mind: the notes of an NPC that are near it in meaning."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TypeAlias

import msgspec
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
_REMEMBERED = 1_024
"""Scenes of which it is remembered what may be told there."""

_Scope: TypeAlias = tuple[str, str, str]
Flags: TypeAlias = npt.NDArray[np.bool_]


class Recalled(msgspec.Struct, frozen=True):
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
        return _Scopes(self.index.documents)

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


class _Scopes:
    """Where notes may be told.

    A place on lore is what it is about, not where it may be told; descriptions are looked up by
    scope, never by meaning, or a later stage would spoil an earlier one.
    """

    def __init__(self, notes: Iterable[Note]) -> None:
        numbers: dict[_Scope | None, int] = {}
        scopes = [numbers.setdefault(_scope_of(note), len(numbers)) for note in notes]
        self._scope_of = np.array(scopes, np.int64)
        self._scopes = list(numbers)
        self._names = {name for scope in numbers if scope for name in scope}
        self._open = lru_cache(_REMEMBERED)(self._open_at)

    def may_tell(self, rows: Rows, scene: Scene, lang: Lang) -> Flags:
        """Whether the notes at `rows` belong to the scene."""
        known = self._names
        stage = scene.quest_stage if scene.quest_stage in known else ANY
        place = scene.location if scene.location in known else ANY
        return self._open((stage, place, lang))[self._scope_of[rows]]

    def _open_at(self, here: _Scope) -> Flags:
        """For each scope, whether what is told there may be told here."""
        return np.array(
            [
                scope is not None
                and all(name in (ANY, wanted) for name, wanted in zip(scope, here, strict=True))
                for scope in self._scopes
            ],
            bool,
        )


def _scope_of(note: Note) -> _Scope | None:
    """The stage, place and language in which a note may be told; None: never."""
    if isinstance(note, DialogueTurn):
        return note.quest_stage, note.location, note.lang
    return (note.quest_stage, ANY, ANY) if isinstance(note, Lore) else None


def kept_back(note: Note, scene: Scene, lang: Lang) -> str:
    """Why no turn at `scene` is told `note`, however near it is; empty if it may be."""
    scope = _scope_of(note)
    if scope is None:
        return "picked by scene"
    here = (scene.quest_stage, scene.location, lang)
    for name, wanted, what in zip(scope, here, ("stage", "place", "language"), strict=True):
        if name not in (ANY, wanted):
            return f"another {what}"
    return ""


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
