"""Measures what an encoder's cosines mean."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from rag.calibration import Calibration
from rag.documents import ANY
from rag.embedder import Embedder
from rag.index import NUM_BEST, Vector
from rag.trigrams import TrigramIndex
from rag.world import World
from train.encoder_data import Question

_NOTE_MISSES = 0.25
"""Share of held-out questions whose document may fall below the bound for notes."""
_SAME_ALARMS = 0.01
"""Share of held-out questions that may seem to mean the same as one about another document."""
_LETTERS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32)
"""Weights of letters that are tried."""

Scores = npt.NDArray[np.float64]


def calibrate(embedder: Embedder, world: World, questions: Sequence[Question]) -> Calibration:
    """Bounds from how near the held-out `questions` are to the others."""
    found = _Nearness.of(embedder, world, questions)
    letters = max(_LETTERS, key=found.mean_reciprocal_rank)
    return Calibration(
        embedder=embedder.id,
        centre=[round(float(value), 5) for value in found.centre],
        note=round(found.note(letters), 4),
        same=round(found.same, 4),
        letters=letters,
    )


@dataclass(frozen=True, slots=True)
class _Nearness:
    """How near held-out questions [n] are to the documents [k] by what else is asked about them.

    `cosines` [n, k]: means of the best passages; `letters` [n, k]: of shared trigrams; `own` [n]:
    the right document's place; `may_find` [n, k]: whether it is of the same NPC, or everybody's;
    `lead` [n]: what is taken from a score, the product with the centre; `alike` [n]: the nearest
    question about another document of the NPC.
    """

    centre: Vector
    cosines: Scores
    letters: Scores
    own: npt.NDArray[np.int64]
    may_find: npt.NDArray[np.bool_]
    lead: Scores
    alike: Scores

    @classmethod
    def of(cls, embedder: Embedder, world: World, questions: Sequence[Question]) -> Self:
        held = [question for question in questions if question.is_held_out]
        rest = [question for question in questions if not question.is_held_out]
        told = {question.about for question in rest}
        held = [question for question in held if question.about in told]
        asked = embedder.encode([question.text for question in held])
        known = embedder.encode([question.text for question in rest])
        about = np.array([question.about for question in rest])
        documents = sorted(told)
        npc_of = {document.id: document.npc_id for document in world.documents}
        npcs = np.array([npc_of[name] for name in documents])
        own_npcs = np.array([npc_of[question.about] for question in held])
        is_own_npc = own_npcs[:, None] == npcs
        own = np.array([documents.index(question.about) for question in held])
        cosines, alike = np.empty((len(held), len(documents))), np.full(len(held), -1.0)
        near = asked @ known.T
        for place, name in enumerate(documents):
            of_it = np.sort(near[:, about == name], axis=1)[:, -NUM_BEST:]
            cosines[:, place] = of_it.mean(axis=1)
            is_other = is_own_npc[:, place] & (own != place)
            alike = np.where(is_other, np.maximum(alike, of_it[:, -1]), alike)
        trigrams = TrigramIndex.of(
            [[question.text for question in rest if question.about == name] for name in documents]
        )
        every = np.arange(len(documents))
        centre: Vector = known.mean(axis=0)
        return cls(
            centre=centre,
            cosines=cosines,
            letters=np.array([trigrams.scores(question.text, every) for question in held]),
            own=own,
            may_find=is_own_npc | (npcs == ANY),
            lead=(asked @ centre).astype(float),
            alike=alike,
        )

    def scores(self, letters: float) -> Scores:
        """With letters of that weight [n, k]."""
        return self.cosines + letters * self.letters

    def mean_reciprocal_rank(self, letters: float) -> float:
        """Of the right document among those that may be found, behind its equals."""
        scores = self.scores(letters)
        right = scores[np.arange(len(self.own)), self.own][:, None]
        ranks = ((scores >= right) & self.may_find).sum(axis=1)
        return float((1 / ranks).mean())

    def note(self, letters: float) -> float:
        """What all but _NOTE_MISSES of the questions reach with their own document."""
        right = self.scores(letters)[np.arange(len(self.own)), self.own]
        return float(np.quantile(right - self.lead, _NOTE_MISSES))

    @property
    def same(self) -> float:
        """No more than _SAME_ALARMS come so near to a question about another document."""
        return float(np.quantile(self.alike, 1 - _SAME_ALARMS))


def as_json(calibration: Calibration) -> bytes:
    """The calibration as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"
