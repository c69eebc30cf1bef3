"""Measures what an encoder's cosines mean, and fits its detector of attacks."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression

from rag.calibration import Calibration, Detector
from rag.embedder import Embedder, Vectors
from rag.index import NUM_BEST
from rag.world import World
from train.encoder_data import Question, TriggerLine
from train.encoder_scores import best_threshold

MIN_PRECISION = 0.96
"""Of the validation lines: to refuse a harmless line costs more than to let an attack through."""
_PENALTIES = (0.1, 1.0, 10.0, 100.0)
_NOTE_MISSES = 0.1
"""Share of held-out questions whose document may fall below the bound for notes."""
_SAME_ALARMS = 0.01
"""Share of held-out questions that may seem to mean the same as one about another document."""


@dataclass(frozen=True, slots=True)
class LabelledVectors:
    """Vectors of lines and whether each line is an attack."""

    vectors: Vectors
    hostile: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, embedder: Embedder, lines: Sequence[TriggerLine]) -> "LabelledVectors":
        """The lines, embedded."""
        vectors = embedder.encode([line.text for line in lines])
        return cls(vectors, np.array([line.hostile for line in lines]))


def calibrate(
    embedder: Embedder,
    world: World,
    questions: Sequence[Question],
    train: Sequence[TriggerLine],
    validation: Sequence[TriggerLine],
) -> Calibration:
    """Bounds from the held-out `questions`; the detector, its threshold chosen on `validation`."""
    note, same = note_bounds(embedder, world, questions)
    detector = fit_detector(
        LabelledVectors.of(embedder, train), LabelledVectors.of(embedder, validation)
    )
    return Calibration(
        embedder=embedder.id,
        note=round(note, 4),
        same=round(same, 4),
        detector=detector,
    )


def fit_detector(train: LabelledVectors, validation: LabelledVectors) -> Detector:
    """The penalty with the best recall on validation, and the threshold that reaches it."""
    best: tuple[float, Detector] | None = None
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, max_iter=2_000)
        model.fit(train.vectors, train.hostile)
        scores = model.predict_proba(validation.vectors)[:, 1]
        threshold, precision, recall = best_threshold(scores, validation.hostile, MIN_PRECISION)
        if best is None or recall > best[0]:
            detector = Detector(
                weights=[round(float(w), 5) for w in model.coef_[0]],
                bias=round(float(model.intercept_[0]), 5),
                threshold=round(min(1.0, max(0.0, threshold)), 4),
                training={"num_lines": len(train.hostile), "C": penalty},
                evaluation={
                    "validation": {
                        "num_lines": len(validation.hostile),
                        "precision": round(precision, 4),
                        "recall": round(recall, 4),
                    }
                },
            )
            best = recall, detector
    assert best is not None, "there are penalties"
    return best[1]


def note_bounds(
    embedder: Embedder, world: World, questions: Sequence[Question]
) -> tuple[float, float]:
    """`(note, same)` from how near held-out questions are to the others, of their own NPC.

    `note`: all but _NOTE_MISSES of them reach it with the mean of their document's best passages.
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
        own.append(np.sort(cosines[is_own])[-NUM_BEST:].mean())
        is_other = (npc == npc_of[question.about]) & ~is_own
        others.append(cosines[is_other].max(initial=-1.0))
    return (
        float(np.quantile(own, _NOTE_MISSES)),
        float(np.quantile(others, 1 - _SAME_ALARMS)),
    )


def as_json(calibration: Calibration) -> bytes:
    """The calibration as its file holds it."""
    return msgspec.json.format(msgspec.json.encode(calibration), indent=1) + b"\n"
