"""The engine tells text when a sentence of it may be released, no later than token by token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sentences import SentenceWatch
from server.line import Line

PIECES = st.lists(
    st.sampled_from(
        ["Aye", ".", " ", " ...", "!", " I", " go", "?\n", ' "So."', "좋아", "요", "…", " 흠", ". "]
    ),
    max_size=14,
)


def released_at(pieces: list[str], told: list[str]) -> list[int]:
    """The piece with which each sentence was released; `told`: the text told after each piece."""
    line, at = Line(), []
    for number, (_, text) in enumerate(zip(pieces, told, strict=True)):
        for sentence in line.push(text) if text else []:
            line.release(sentence)
            at.append(number)
    return at


def joined(pieces: list[str]) -> list[str]:
    """What the engine tells after each piece."""
    watch, told, untold = SentenceWatch(), [], ""
    for piece in pieces:
        untold += piece
        is_due = watch(piece)
        told.append(untold if is_due else "")
        untold = "" if is_due else untold
    return told


@given(PIECES)
def test_no_sentence_comes_later_than_by_itself(pieces: list[str]) -> None:
    assert released_at(pieces, joined(pieces)) == released_at(pieces, pieces)


@pytest.mark.parametrize(
    "pieces",
    [
        ["좋아", "요", ".", " ", "흠", "..."],
        ["Hello", ".", " ", "There", " lives", " a", " man", ".", " He"],
        ["Yes", ".", " ...", " I", " know"],
        ["3", ".", "5", " coins", "."],
    ],
)
def test_what_the_tokenizer_of_the_default_model_makes(pieces: list[str]) -> None:
    assert released_at(pieces, joined(pieces)) == released_at(pieces, pieces)


def test_text_between_two_sentence_ends_is_told_together() -> None:
    told = joined(["Aye", ".", " I", " go", " now", ".", " So"])
    assert [text for text in told if text] == ["Aye. I", " go now. So"]


def test_a_run_of_marks_costs_no_more_than_its_length() -> None:
    watch = SentenceWatch()
    assert not any(watch("!" * 16) for _ in range(2_000))
