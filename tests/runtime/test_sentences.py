import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sentences import CUT, Sentences
from tests.server.test_reply import cut

MARKS = [*".!?。！？…~\"'”’」』)] \n\t3,:가", "그게…", "응?", "3.5", '"네."', "한 마디", "Aye."]
TEXTS = st.lists(st.one_of(st.sampled_from(MARKS), st.text(max_size=3)), max_size=20).map("".join)
PLACES = st.lists(st.integers(0, 200), max_size=12)
WHOLE = re.compile(r"""[.!?。！？][…~]*["'”’」』)\]]*\s*\Z""")


def split(pieces: list[str], *, is_cut: bool = False) -> list[str]:
    """The sentences, the last of them possibly empty."""
    sentences = Sentences()
    whole = [sentence for piece in pieces for sentence in sentences.push(piece)]
    return [*whole, sentences.finish(is_cut=is_cut)]


@given(TEXTS, PLACES, st.booleans())
def test_any_split_of_a_text_gives_the_same_sentences(
    text: str, places: list[int], is_cut: bool
) -> None:
    assert split(cut(text, places), is_cut=is_cut) == split([text], is_cut=is_cut)


@given(TEXTS)
def test_the_sentences_add_up_to_the_text(text: str) -> None:
    *whole, last = split([*text])
    assert "".join([*whole, last]) == text
    assert all(WHOLE.search(sentence) for sentence in whole)


@given(TEXTS, st.text(max_size=8))
def test_what_was_given_is_not_changed_by_what_follows(text: str, more: str) -> None:
    sentences = Sentences()
    given_before = sentences.push(text)
    assert split([text + more])[: len(given_before)] == given_before


@given(TEXTS)
def test_a_cut_line_ends_whole_or_with_an_ellipsis_if_no_sentence_is(text: str) -> None:
    *whole, last = split([text], is_cut=True)
    line = "".join([*whole, last])
    assert text.startswith(line.removesuffix(CUT))
    if not text.strip():
        assert line == text
    elif any(map(str.isalnum, "".join(whole))) or WHOLE.search(text):
        assert text.startswith(line)
        assert WHOLE.search(line)
    elif not whole:
        assert line.endswith(CUT)


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("안녕하세요. 바람이 세군요.", ["안녕하세요.", " 바람이 세군요."]),
        ("Aye! What now? Wait.", ["Aye!", " What now?", " Wait."]),
        ("그게… 저는 몰라요.", ["그게… 저는 몰라요."]),
        ("It costs 3.5 pearls. Or 4.", ["It costs 3.5 pearls.", " Or 4."]),
        ('"Go." he said.', ['"Go."', " he said."]),
        ("(정말요?) 네.", ["(정말요?)", " 네."]),
        ("뭐라고요?! 설마…", ["뭐라고요?!", " 설마…"]),
        ("좋아요!~ 가요", ["좋아요!~", " 가요"]),
        ("風が強い。 行こう。", ["風が強い。", " 行こう。"]),
        ("No end", ["No end"]),
        ("", [""]),
    ],
)
def test_a_sentence_ends_at_its_mark_once_white_space_follows(
    text: str, sentences: list[str]
) -> None:
    assert split([text]) == sentences


def test_a_sentence_is_given_as_soon_as_it_is_certain() -> None:
    sentences = Sentences()
    assert sentences.push("Mind the step") == []
    assert sentences.push(".") == []  # it may go on: "3.5", "Wait..."
    assert sentences.push('"') == []
    assert sentences.push(" ") == ['Mind the step."']
    assert sentences.finish(is_cut=False) == " "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("The wind is up. Mind the st", "The wind is up."),
        ("바람이 세요. 조심하", "바람이 세요."),
        ("The wind is up. Mind the step.", "The wind is up. Mind the step."),
        ('"The wind is up." Mi', '"The wind is up."'),
        ("The wind is up.", "The wind is up."),
        ("The wind is u", "The wind is…"),
        ("바람이 세고, 물이", "바람이 세고…"),
        ("The wind, and", "The wind…"),
        ("It costs 3.5 pea", "It costs 3.5…"),
        ("The", "The…"),
        ("", ""),
    ],
)
def test_of_a_cut_line_only_what_is_whole_is_said(text: str, line: str) -> None:
    assert "".join(split([text], is_cut=True)) == line


def test_a_cut_line_never_ends_with_two_ellipses() -> None:
    assert "".join(split(["그게… 저"], is_cut=True)) == "그게…"


def test_dots_alone_are_no_line() -> None:
    assert "".join(split(["... 그건 말이"], is_cut=True)) == "... 그건…"
