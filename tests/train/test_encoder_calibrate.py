"""What is measured of an encoder with a world's own questions."""

from collections.abc import Sequence

import numpy as np
import pytest

from rag.documents import Document, Lore, Questions
from rag.embedder import Vectors
from rag.world import World
from tests.rag.fake_embedder import GramEmbedder
from train.dataset import DatasetError
from train.encoder_calibrate import as_json, calibrate
from train.encoder_data import Question, read_questions

WORDS = {"lamp": "등대 불 lamp", "salt": "소금 염전 salt", "bell": "종 울림 bell"}


def make_world(num_questions: int) -> tuple[World, list[Question]]:
    documents: list[Document] = []
    for name, words in WORDS.items():
        questions = [f"{words} {number}?" for number in range(num_questions)]
        documents.append(Lore(id=name, npc_id="mina", content=name))
        if questions:
            documents.append(Questions(id=f"{name}?", about=name, questions=questions))
    return World(documents), read_questions(documents)


class BlindEmbedder(GramEmbedder):
    """To it all texts are the same."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        return super().encode(["" for _ in texts])


def test_three_of_four_held_out_questions_reach_the_bound_for_notes() -> None:
    world, questions = make_world(60)
    embedder = GramEmbedder()
    found = calibrate(embedder, world, questions)
    assert found.embedder == embedder.id
    held = [question for question in questions if question.is_held_out]
    rest = [question for question in questions if not question.is_held_out]
    vectors, known = (embedder.encode([q.text for q in each]) for each in (held, rest))
    np.testing.assert_allclose(found.centre, known.mean(axis=0), atol=1e-5)
    leads, alike = [], []
    for question, vector in zip(held, vectors, strict=True):
        near = known @ vector
        is_own = np.array([other.about == question.about for other in rest])
        leads.append(np.sort(near[is_own])[-3:].mean() - vector @ known.mean(axis=0))
        alike.append(near[~is_own].max())
    assert np.mean(np.array(leads) >= found.note - 1e-4) == pytest.approx(0.75, abs=1 / len(held))
    assert found.same == pytest.approx(np.quantile(alike, 0.99), abs=1e-4)
    assert b'"letters"' in as_json(found)


@pytest.mark.parametrize("num_questions", [0, 1])
def test_too_few_questions_are_told(num_questions: int) -> None:
    world, questions = make_world(num_questions)
    with pytest.raises(DatasetError, match="write 20 at least"):
        calibrate(GramEmbedder(), world, questions)


def test_letters_count_where_the_encoder_is_blind() -> None:
    world, questions = make_world(60)
    assert calibrate(BlindEmbedder(), world, questions).letters > 0
