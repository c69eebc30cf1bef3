"""BM25 of character trigrams, against the formula worked out letter by letter."""

import random
from collections import Counter
from math import log

import numpy as np
import pytest

from rag.trigrams import TrigramIndex

DOCUMENTS = [
    ["The lamp is out.", "Who lit the lamp?"],
    ["소금은 희다.", "소금밭은 어디예요?"],
    ["The bell rang at night, the bell."],
    [],
    ["lamp"],
]
EVERY = range(len(DOCUMENTS))


def trigrams(text: str) -> list[str]:
    words = (f" {word} " for word in text.casefold().split())
    return [word[at : at + 3] for word in words for at in range(len(word) - 2)]


def by_hand(text: str, documents: list[list[str]]) -> list[float]:
    """Robertson & Zaragoza (2009), k1 1.2, b 0.75, over the text's trigrams."""
    bags = [Counter(gram for passage in texts for gram in trigrams(passage)) for texts in documents]
    usual = sum(bag.total() for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        weights = []
        for gram in trigrams(text):
            having = sum(gram in other for other in bags)
            rarity = log(1 + (len(bags) - having + 0.5) / (having + 0.5))
            long = 0.25 + 0.75 * bag.total() / usual
            weights.append(rarity * bag[gram] * 2.2 / (bag[gram] + 1.2 * long))
        scores.append(sum(weights) / len(weights))
    return scores


@pytest.mark.parametrize(
    "text", ["Who lit the lamp?", "소금이 어디서 나요", "LAMP", "a", "xyzzy", "the the bell"]
)
def test_the_score_is_the_mean_weight_of_the_trigrams(text: str) -> None:
    found = TrigramIndex.of(DOCUMENTS).scores(text, EVERY)
    np.testing.assert_allclose(found, by_hand(text, DOCUMENTS), rtol=1e-3, atol=1e-6)


def test_some_documents_have_the_scores_that_they_have_among_all() -> None:
    index = TrigramIndex.of([*DOCUMENTS, []])
    every = index.scores("the lamp", range(6))
    for some in ([0, 2, 4], [3], [1, 3, 5], [4, 5]):
        np.testing.assert_array_equal(index.scores("the lamp", some), every[some])
    assert index.scores("the lamp", []).shape == (0,)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_a_text_without_letters_shares_none(text: str) -> None:
    assert not TrigramIndex.of([*DOCUMENTS, [text]]).scores(text, range(6)).any()


@pytest.mark.parametrize("text", ["\ud800", "\0"])
def test_any_character_may_be_a_letter(text: str) -> None:
    found = TrigramIndex.of([*DOCUMENTS, [text]]).scores(text, range(6))
    assert found.argmax() == 5
    assert found[:5].max() == 0 < found[5]


def test_of_a_long_text_some_trigrams_stand_for_all() -> None:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=6)) for _ in range(400)]
    index = TrigramIndex.of([words[:200], words[200:]])
    first, second = index.scores(" ".join(words[:200]), range(2))
    assert first > 2 * second


@pytest.mark.parametrize("documents", [[], [[]], [[""]]])
def test_of_a_world_without_notes_nothing_is_known(documents: list[list[str]]) -> None:
    index = TrigramIndex.of(documents)
    assert not index.scores("the lamp", range(len(documents))).any()


def test_inflected_korean_is_found() -> None:
    salt, bell = TrigramIndex.of([["소금밭을 지키는 할머니"], ["종을 치는 아이"]]).scores(
        "소금밭에서 봤어요", range(2)
    )
    assert salt > bell == 0
