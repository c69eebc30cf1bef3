"""What is measured of an encoder with a world's own questions."""

from collections.abc import Sequence

import pytest

from rag.documents import Document, Lore, Questions
from rag.embedder import Embedder, Vectors
from rag.world import World
from tests.rag.fake_embedder import GramEmbedder
from train.encoder_calibrate import as_json, calibrate
from train.encoder_data import Question, read_questions

WORDS = {"lamp": "등대 불 lamp", "salt": "소금 염전 salt", "bell": "종 울림 bell"}


def make_world(num_questions: int) -> tuple[World, list[Question]]:
    documents: list[Document] = []
    for name, words in WORDS.items():
        questions = [f"{words} {number}?" for number in range(num_questions)]
        documents += [
            Lore(id=name, npc_id="mina", content=name),
            Questions(id=f"{name}?", about=name, questions=questions),
        ]
    return World(documents), read_questions(documents)


class BlindEmbedder(GramEmbedder):
    """To it all texts are the same."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        return super().encode(["" for _ in texts])


@pytest.mark.parametrize("make", [GramEmbedder, BlindEmbedder])
def test_the_bounds_are_such_as_the_held_out_questions_reach(make: type[Embedder]) -> None:
    world, questions = make_world(60)
    embedder = make()
    assert any(question.is_held_out for question in questions)
    found = calibrate(embedder, world, questions)
    assert found.embedder == embedder.id
    assert len(found.centre) == embedder.dim
    assert -1 < found.note < 1
    assert b'"letters"' in as_json(found)


def test_letters_count_where_the_encoder_is_blind() -> None:
    world, questions = make_world(60)
    assert calibrate(BlindEmbedder(), world, questions).letters > 0
