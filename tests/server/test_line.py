import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sentences import CUT
from server.line import Line
from server.reply import ReplyCleaner
from server.schemas import MAX_LINE
from tests.server.test_reply import ANY_TAG, PIECES, cut

SPOKEN = st.one_of(PIECES, st.sampled_from([". ", "! ", "? ", "… ", ".", "Aye. ", "응? "]))
TEXTS = st.lists(SPOKEN, max_size=16).map("".join)
PLACES = st.lists(st.integers(0, 200), max_size=12)


def say(pieces: list[str], *, is_cut: bool = False) -> tuple[list[str], str]:
    """The sentences released, as they came, and the line that they made."""
    line = Line()
    released = []
    for piece in pieces:
        for sentence in line.push(piece):
            line.release(sentence)
            released.append(sentence)
    if last := line.finish(is_cut=is_cut):
        line.release(last)
        released.append(last)
    return released, line.text


@given(TEXTS, PLACES, st.booleans())
def test_any_split_of_a_text_gives_the_same_line(
    text: str, places: list[int], is_cut: bool
) -> None:
    _, whole = say([text], is_cut=is_cut)
    released, line = say(cut(text, places), is_cut=is_cut)
    assert line == whole == "".join(released)
    assert not ANY_TAG.search(line)


@given(TEXTS)
def test_a_line_that_was_not_cut_is_the_cleaned_text(text: str) -> None:
    cleaner = ReplyCleaner()
    cleaner.push(text)
    cleaner.finish()
    assert say([text])[1] == cleaner.text


@given(TEXTS)
def test_a_cut_line_is_the_beginning_of_the_whole_one(text: str) -> None:
    whole, line = say([text])[1], say([text], is_cut=True)[1]
    assert whole.startswith(line.removesuffix(CUT))
    assert bool(line) == bool(whole)


@pytest.mark.parametrize(
    ("text", "is_cut", "sentences"),
    [
        (
            "  The wind\n is up.  Mind <NPC>the step. ",
            False,
            ["The wind is up.", " Mind the step."],
        ),
        ("The wind is up. Mind the <ST", True, ["The wind is up."]),
        ("The wind is <PLAYER>", True, ["The wind…"]),
        ("<RESPONSE>Aye.</RESPONSE><DELTA>trust=0.1", True, ["Aye."]),
        ("Aye.<NPC>Go.", False, ["Aye.", " Go."]),
        ("<STATE> ", True, []),
        ("Aye. I <3 it. So", False, ["Aye.", " I <3 it. So"]),  # held back as a possible tag
        ("Aye. I <3 it. So", True, ["Aye.", " I <3 it."]),
    ],
)
def test_a_line_comes_cleaned_and_sentence_by_sentence(
    text: str, is_cut: bool, sentences: list[str]
) -> None:
    assert say([text], is_cut=is_cut)[0] == sentences


def test_only_what_was_released_is_the_line() -> None:
    line = Line()
    first, second = line.push("The wind is up. I am an AI. And")
    line.release(first)
    assert second == " I am an AI."
    assert line.finish(is_cut=True) == ""
    assert line.text == "The wind is up."


@pytest.mark.parametrize(
    ("pieces", "is_full", "said"),
    [
        (["a" * MAX_LINE], True, "a" * (MAX_LINE - 1) + CUT),
        (["a" * (MAX_LINE - 1)], False, "a" * (MAX_LINE - 1)),
        (["Aye. ", "a" * MAX_LINE], True, "Aye."),
        (["Aye. "] * MAX_LINE, True, "Aye." + " Aye." * (MAX_LINE // 5 - 1)),
        (["aye "] * MAX_LINE, True, "aye" + " aye" * (MAX_LINE // 4 - 2) + CUT),
        (["... ", "a" * MAX_LINE, "."], True, "... " + "a" * (MAX_LINE - 5) + CUT),
        (["Aye. ", "<DELTA>", "a" * MAX_LINE, "</DELTA>", "Go."], False, "Aye. Go."),
    ],
)
def test_a_line_ends_before_it_is_longer_than_a_history_may_tell(
    pieces: list[str], is_full: bool, said: str
) -> None:
    line = Line()
    whole = [sentence for piece in pieces for sentence in line.push(piece)]
    whole.append(line.finish(is_cut=False))
    assert "".join(whole) == said
    assert len(said) <= MAX_LINE
    assert line.is_full == is_full


def test_what_the_model_wrote_beside_the_line_is_kept_apart() -> None:
    line = Line()
    line.push("Aye. <FLAG>give_item=1</FLAG>")
    line.finish(is_cut=False)
    assert line.asides == {"FLAG": "give_item=1"}
