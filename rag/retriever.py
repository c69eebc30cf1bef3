"""What an utterance calls to mind: the notes of an NPC that are near it in meaning."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rag.calibration import Calibration
from rag.documents import ANY, DialogueTurn, Lang, Lore, localise
from rag.embedder import Embedder
from rag.index import Match, Vector, WorldIndex
from rag.scopes import Scene
from rag.searchable import Note
from runtime.encoder import PromptEncoder

NUM_CANDIDATES = 8
"""Notes that are ranked; the prompt's budget decides how many of them are shown."""
NOTE_TOKENS = 160
"""The budget of notes for a turn, where none is set."""


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
    def _stages(self) -> frozenset[str]:
        """Those that any note is for; all others are alike."""
        return frozenset(note.quest_stage for note in self.index.documents)

    @cached_property
    def _places(self) -> frozenset[str]:
        return frozenset(note.location for note in self.index.documents)

    def encode(self, text: str) -> Vector:
        """The unit vector of a text, float32 [dim]."""
        vector: Vector = self.embedder.encode([text])[0]
        return vector

    def notes(self, vector: Vector, scene: Scene, lang: Lang) -> list[Match]:
        """Lore and model dialogues that may be told at `scene`, nearest first, far ones too."""
        return self.index.near(
            vector,
            scene.npc_id,
            NUM_CANDIDATES,
            lambda note: _may_tell(note, scene, lang),
            key=(
                scene.quest_stage if scene.quest_stage in self._stages else ANY,
                scene.location if scene.location in self._places else ANY,
                lang,
            ),
        )

    def lead(self, match: Match, vector: Vector) -> float:
        """How much nearer a note is to an utterance than anything is."""
        return match.score - float(vector @ self.centre)

    def is_near(self, match: Match, vector: Vector) -> bool:
        """Whether a note is worth showing."""
        return self.lead(match, vector) >= self.calibration.note


def _may_tell(note: Note, scene: Scene, lang: Lang) -> bool:
    """Whether a note belongs to the scene.

    A place on lore is what it is about, not where it may be told; descriptions are looked up by
    scope, never by meaning, or a later stage would spoil an earlier one.
    """
    if note.quest_stage not in (ANY, scene.quest_stage):
        return False
    if isinstance(note, DialogueTurn):
        return note.lang == lang and note.location in (ANY, scene.location)
    return isinstance(note, Lore)


def note_text(note: Note, lang: Lang) -> str:
    """A note as a prompt tells it."""
    if isinstance(note, DialogueTurn):
        return f"{note.player} → {note.npc}"
    return localise(note.content, lang)


def fitting_notes(
    matches: Sequence[Match], lang: Lang, encoder: PromptEncoder, budget: int
) -> list[Match]:
    """The nearest of `matches` whose texts together take at most `budget` tokens."""
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
