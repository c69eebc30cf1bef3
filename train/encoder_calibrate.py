"""Measures what an encoder's cosines mean."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from rag.calibration import Calibration
from rag.documents import ANY
from rag.embedder import Embedder
from rag.index import NUM_BEST, Vector
from rag.searchable import searchable
from rag.trigrams import TrigramIndex
from rag.world import World
from train.dataset import DatasetError
from train.encoder_data import HELD_OUT, Question

_NOTE_MISSES = 0.25
"""Share of held-out questions whose document may fall below the bound for notes."""
_USUAL = 60
"""Questions about a document, at most, where that is measured: the more there are the nearer the
best of them is, and another world may have fewer.
"""
_FEWEST = 2
_SAME_ALARMS = 0.01
"""Share of held-out questions that may seem to mean the same as one about another document."""
_LETTERS = (0.0, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.48, 0.64)
"""Weights of letters that are tried."""

Scores = npt.NDArray[np.float64]


def calibrate(embedder: Embedder, world: World, questions: Sequence[Question]) -> Calibration:
    """Bounds from how near the held-out `questions` are to the others.

    Raises DatasetError where there are too few of them.
    """
    found = _Nearness.of(embedder, world, questions)
    letters = max(_LETTERS, key=found.mean_reciprocal_rank)
    return Calibration(
        embedder=embedder.id,
        centre=[round(float(value), 5) for value in found.centre],
        note=round(found.note, 4),
        same=round(found.same, 4),
        letters=letters,
    )


@dataclass(frozen=True, slots=True)
class _Nearness:
    """How near held-out questions [n] are to the documents [k] by what else is asked about them.

    `cosines` [n, k]: means of the best passages; `letters` [n, k]: of shared trigrams; `own` [n]:
    the right document's place; `may_find` [n, k]: whether it is of the same NPC, or everybody's;
    `lead` [n]: of the right document's score, with a usual number of passages, over the product
    with the centre; `alike` [n]: the nearest question about another document of the NPC.
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
        if len(told) < _FEWEST or not held:
            raise DatasetError(
                f"{len(rest)} questions about {len(told)} documents to learn from and {len(held)} "
                f"to measure with; write {_FEWEST * HELD_OUT} at least about each of {_FEWEST} "
                "documents (`type: questions`)"
            )
        asked = embedder.encode([question.text for question in held])
        known = embedder.encode([question.text for question in rest])
        about = np.array([question.about for question in rest])
        documents = sorted(told)
        npc_of = {document.id: document.npc_id for document in world.documents}
        npcs = np.array([npc_of[name] for name in documents])
        own_npcs = np.array([npc_of[question.about] for question in held])
        is_own_npc = own_npcs[:, None] == npcs
        own = np.array([documents.index(question.about) for question in held])
        centre: Vector = known.mean(axis=0)
        lead = -(asked @ centre).astype(float)
        cosines, alike = np.empty((len(held), len(documents))), np.full(len(held), -1.0)
        near, rng = asked @ known.T, np.random.default_rng(0)
        for place, name in enumerate(documents):
            of_it = near[:, rng.permutation(np.flatnonzero(about == name))]
            cosines[:, place] = _best(of_it)
            is_own = own == place
            lead[is_own] += _best(of_it[is_own, :_USUAL])
            is_other = is_own_npc[:, place] & ~is_own
            alike = np.where(is_other, np.maximum(alike, of_it.max(axis=1)), alike)
        trigrams, rows = _served_trigrams(world, documents, {question.text for question in held})
        return cls(
            centre=centre,
            cosines=cosines,
            letters=np.array([trigrams.scores(question.text, rows) for question in held]),
            own=own,
            may_find=is_own_npc | (npcs == ANY),
            lead=lead,
            alike=alike,
        )

    def mean_reciprocal_rank(self, letters: float) -> float:
        """Of the right document among those that may be found, behind its equals."""
        scores = self.cosines + letters * self.letters
        right = scores[np.arange(len(self.own)), self.own][:, None]
        ranks = ((scores >= right) & self.may_find).sum(axis=1)
        return float((1 / ranks).mean())

    @property
    def note(self) -> float:
        """What all but _NOTE_MISSES of the questions reach with their own document."""
        return float(np.quantile(self.lead, _NOTE_MISSES))

    @property
    def same(self) -> float:
        """No more than _SAME_ALARMS come so near to a question about another document."""
        return float(np.quantile(self.alike, 1 - _SAME_ALARMS))


def _served_trigrams(
    world: World, documents: Sequence[str], held_out: Collection[str]
) -> tuple[TrigramIndex, list[int]]:
    """The trigrams of a world's notes without what is held out, and the rows of `documents`."""
    content = searchable(world.documents)
    names = list(dict.fromkeys(passage.document.id for passage in content.notes))
    kept = [
        [text for text in passages if text not in held_out] for passages in content.by_document()
    ]
    return TrigramIndex.of(kept), [names.index(name) for name in documents]


def _best(cosines: Vector) -> Vector:
    """The mean of the largest in each row [n, passages]."""
    best: Vector = np.sort(cosines, axis=1)[:, -NUM_BEST:].mean(axis=1)
    return best


def as_json(calibration: Calibration) -> bytes:
    """The calibration as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"
