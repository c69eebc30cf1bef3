import re
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.prompt import Special
from server.reply import ReplyCleaner

TAGS = [*Special, "</NPC>", "<RESPONSE>", "</response>", "<Delta>", "</FLAG>"]
ANY_TAG = re.compile(
    rf"</?({'|'.join(s.strip('<>') for s in Special)}|RESPONSE|DELTA|FLAG)>", re.IGNORECASE
)
PIECES = st.one_of(
    st.sampled_from([*TAGS, "<", ">", "</", "<ST", "ATE>", "PLAYER", "_STATE", " ", "\n", "안녕"]),
    st.text(st.characters(categories=["Cc"]), max_size=2),
    st.text(max_size=4),
)


def clean(pieces: list[str]) -> tuple[str, list[str]]:
    """The final text and the pieces released."""
    cleaner = ReplyCleaner()
    released = [cleaner.push(piece) for piece in pieces]
    released.append(cleaner.finish())
    return cleaner.text, released


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(PIECES, max_size=12).map("".join), st.lists(st.integers(0, 200), max_size=12))
def test_any_split_of_a_text_gives_the_same_line(text: str, places: list[int]) -> None:
    whole, _ = clean([text])
    line, released = clean(cut(text, places))
    assert line == whole
    assert "".join(released) == line
    assert not ANY_TAG.search(line)
    assert line == line.strip()
    assert "Cc" not in map(unicodedata.category, line)


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters="<"), max_size=5),
        max_size=8,
    )
)
def test_a_text_without_tags_loses_only_white_space_and_commas_before_it(pieces: list[str]) -> None:
    line, _ = clean(pieces)
    assert line == " ".join("".join(pieces).split()).lstrip(" ,;、，；")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("안녕하세요.", "안녕하세요."),
        ("<RESPONSE>Hello.</RESPONSE>", "Hello."),
        ("Hello <NPC> there", "Hello there"),
        ("<ST<NPC>ATE>", "<ST ATE>"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("I love you <3", "I love you <3"),
        ("<STATE", "<STATE"),
        ("<state></Player_State>", ""),
        ("   ", ""),
        (", and, well, <NPC>, no.", "and, well, , no."),
        (" ,、 <RESPONSE>; 그래.", "그래."),
        ("a  b\u3000c", "a b c"),
        ("a\n\tb\x0cc\x1fd\x85e", "a b c d e"),
        ("\x07, He\x00llo\x1b \x7f\x9f there.\x07", "Hello there."),
        ("<ST\x07ATE>Hello.", "Hello."),
        ("<DELTA>trust=\x000.1</DELTA>Hello.", "Hello."),
        ("<RESPONSE>Hello.</RESPONSE><DELTA>trust=0.1</DELTA><FLAG>give_item=1</FLAG>", "Hello."),
        ("Hello.<DELTA>trust=0.1 never closed", "Hello."),
        ("<DELTA>trust=0.1<RESPONSE>Hello.", "Hello."),
    ],
)
def test_tags_go_and_what_merely_looks_like_one_stays(text: str, line: str) -> None:
    assert clean([text])[0] == line
    assert clean(list(text))[0] == line


def test_what_other_models_write_beside_the_line_is_told_apart() -> None:
    cleaner = ReplyCleaner()
    for piece in "<response>Hi.</response><delta>trust=0.1</delta> <FLAG> give_item=1":
        cleaner.push(piece)
    cleaner.finish()
    assert cleaner.text == "Hi."
    assert cleaner.asides == {"DELTA": "trust=0.1", "FLAG": "give_item=1"}


def test_words_are_released_as_they_come() -> None:
    cleaner = ReplyCleaner()
    assert cleaner.push("  The ") == "The"
    assert cleaner.push("wind") == " wind"
    assert cleaner.push(" <") == ""
    assert cleaner.push("3 you and all of us") == " <3 you and all of us"
    assert cleaner.finish() == ""
