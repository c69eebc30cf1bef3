"""Measures what an encoder's cosines mean."""

from collections.abc import Sequence

import msgspec
import numpy as np

from rag.calibration import Calibration
from rag.embedder import Embedder
from rag.index import NUM_BEST, Vector
from rag.world import World
from train.encoder_data import Question

_NOTE_MISSES = 0.25
"""Share of held-out questions whose document may fall below the bound for notes."""
_SAME_ALARMS = 0.01
"""Share of held-out questions that may seem to mean the same as one about another document."""


def calibrate(embedder: Embedder, world: World, questions: Sequence[Question]) -> Calibration:
    """Bounds from how near the held-out `questions` are to the others."""
    centre = embedder.encode([q.text for q in questions if not q.is_held_out]).mean(axis=0)
    note, same = note_bounds(embedder, world, questions, centre)
    return Calibration(
        embedder=embedder.id,
        centre=[round(float(value), 5) for value in centre],
        note=round(note, 4),
        same=round(same, 4),
    )


def note_bounds(
    embedder: Embedder, world: World, questions: Sequence[Question], centre: Vector
) -> tuple[float, float]:
    """`(note, same)` from how near held-out questions are to the others, of their own NPC.

    `note`: all but _NOTE_MISSES of them reach it, with the mean of their document's best passages
    above what they have in common with the `centre`.
    `same`: no more than _SAME_ALARMS of them come so near to a question about another document.
    """
    npc_of = {document.id: document.npc_id for document in world.documents}
    held = [question for question in questions if question.is_held_out]
    rest = [question for question in questions if not question.is_held_out]
    asked = embedder.encode([question.text for question in held])
    known = embedder.encode([question.text for question in rest])
    about = np.array([question.about for question in rest])
    npc = np.array([npc_of[question.about] for question in rest])
    own, others = [], []
    for question, vector in zip(held, asked, strict=True):
        cosines = known @ vector
        is_own = about == question.about
        own.append(np.sort(cosines[is_own])[-NUM_BEST:].mean() - vector @ centre)
        is_other = (npc == npc_of[question.about]) & ~is_own
        others.append(cosines[is_other].max(initial=-1.0))
    return (
        float(np.quantile(own, _NOTE_MISSES)),
        float(np.quantile(others, 1 - _SAME_ALARMS)),
    )


def as_json(calibration: Calibration) -> bytes:
    """The calibration as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"
