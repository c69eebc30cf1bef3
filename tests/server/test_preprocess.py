import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidField
from server.preprocess import clean_text, utterance_of

CHARACTERS = st.characters(categories=None)  # lone surrogates too


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("안녕", "안녕"),
        ("\u110b\u1161\u11ab\u1102\u1167\u11bc", "안녕"),
        ("e\u0301", "é"),
        ("e\x00\u0301", "é"),
        ("a\x00b\x1bc\x7fd\x9fe", "abcde"),
        ("\ud83d a \udc00", "a"),
        ("  two\t\n lines\u3000here\x85now ", "two lines here now"),
        ("<STATE> 😀 👨‍👩‍👧", "<STATE> 😀 👨‍👩‍👧"),
        ("\x00\t\ud800", ""),
        (f"no{chr(0x316) * 20}\x00{chr(0x316) * 1_000} way", f"no{chr(0x316) * 30} way"),
    ],
)
def test_text_is_composed_and_has_no_controls_surrogates_or_runs_of_space(
    raw: str, clean: str
) -> None:
    assert clean_text(raw) == clean


@given(st.text(CHARACTERS))
def test_clean_text_is_clean_whatever_it_was(raw: str) -> None:
    clean = clean_text(raw)
    assert clean_text(clean) == clean
    assert unicodedata.is_normalized("NFC", clean)
    assert not {unicodedata.category(char) for char in clean} & {"Cc", "Cs"}
    assert clean == " ".join(clean.split())
    clean.encode()


@given(st.text(st.characters(categories=["L", "N", "P", "S"])))
def test_nothing_that_can_be_read_is_lost(raw: str) -> None:
    assert clean_text(raw) == unicodedata.normalize("NFC", raw)


def test_text_and_user_input_are_two_names_for_one_field() -> None:
    assert utterance_of("hi", None) == utterance_of(None, "hi") == utterance_of("hi", "hi") == "hi"


@pytest.mark.parametrize(
    ("text", "user_input", "path"),
    [
        (None, None, "$.text"),
        ("", None, "$.text"),
        (" \t\x00", None, "$.text"),
        ("\u200b\u200d \ufeff", None, "$.text"),
        (None, "\u3000", "$.user_input"),
        ("", "hello", "$.user_input"),
        ("one", "two", "$.user_input"),
    ],
)
def test_no_utterance_or_two_are_refused_by_field(
    text: str | None, user_input: str | None, path: str
) -> None:
    with pytest.raises(InvalidField) as caught:
        utterance_of(text, user_input)
    assert caught.value.path == path
