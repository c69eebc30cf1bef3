"""Text that is shown: whole characters, nothing past a stop string, nothing lost on the way."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.text import TextStream


def play(pieces: Iterable[bytes], stop: tuple[str, ...] = ()) -> list[str]:
    """What is released piece by piece, then at the end."""
    stream = TextStream(stop)
    return [*(stream.push(piece) for piece in pieces), stream.finish()]


def split(raw: bytes, cuts: Sequence[int]) -> list[bytes]:
    """`raw` cut at each of `cuts`, in order."""
    edges = [0, *sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


def test_a_hangul_syllable_split_over_byte_tokens_appears_whole() -> None:
    raw = "안녕".encode()
    assert play([raw[i : i + 1] for i in range(6)]) == ["", "", "안", "", "", "녕", ""]


@given(st.text(), st.lists(st.integers(0, 1000)))
def test_any_split_of_any_text_gives_the_text_back(text: str, cuts: list[int]) -> None:
    assert "".join(play(split(text.encode(), cuts))) == text


@given(st.lists(st.binary()))
def test_no_bytes_whatever_show_a_replacement_character(pieces: list[bytes]) -> None:
    written = b"".join(pieces)
    if "\ufffd".encode() not in written:
        assert "\ufffd" not in "".join(play(pieces))


def test_bytes_of_an_unfinished_character_are_dropped_at_the_end() -> None:
    assert "".join(play([b"a", "안".encode()[:2]])) == "a"


def test_an_unfinished_character_does_not_swallow_what_follows() -> None:
    assert "".join(play(["안".encode()[:2], b"bc"])) == "bc"


def test_text_is_released_as_soon_as_it_cannot_begin_a_stop_string() -> None:
    assert play([b"a<", b"b", b"<e", b"x"], ("<end>",)) == ["a", "<b", "", "<ex", ""]


def test_a_stop_string_over_token_borders_ends_the_text() -> None:
    assert play([b"yes <", b"en", b"d> no", b"more"], ("<end>",)) == ["yes ", "", "", "", ""]


def test_a_stop_string_inside_a_split_syllable_is_seen() -> None:
    raw = "그래 끝".encode()
    stream = TextStream(("끝",))
    released = "".join(stream.push(raw[i : i + 1]) for i in range(len(raw)))
    assert released == "그래 "
    assert stream.is_stopped


def test_the_earliest_of_several_stop_strings_counts() -> None:
    assert "".join(play([b"one two three"], ("three", "two"))) == "one "


def test_a_shorter_stop_string_ends_the_text_while_a_longer_one_is_pending() -> None:
    assert "".join(play([b"xa", b"b", b"y"], ("xaby", "ab"))) == "x"


def test_what_only_looked_like_a_stop_string_is_shown_at_the_end() -> None:
    assert play([b"a", b"<en"], ("<end>",)) == ["a", "", "<en"]


def test_nothing_appears_after_a_stop() -> None:
    stream = TextStream((".",))
    assert [stream.push(b"a.b"), stream.push(b"c"), stream.finish()] == ["a", "", ""]
    assert stream.is_stopped


@pytest.mark.parametrize("stop", [(), ("",)])
def test_without_stop_strings_nothing_is_held_back(stop: tuple[str, ...]) -> None:
    assert play([b"a", b"b"], stop) == ["a", "b", ""]


@given(
    st.text("ab끝", max_size=30),
    st.lists(st.text("ab끝", min_size=1, max_size=4), min_size=1, max_size=3),
    st.lists(st.integers(0, 100), max_size=10),
)
def test_any_split_stops_where_the_whole_text_would(
    text: str, stops: list[str], cuts: list[int]
) -> None:
    pieces = [character.encode() for character in text]  # one at a time: the strictest order
    by_character = "".join(play(pieces, tuple(stops)))
    assert text.startswith(by_character)
    assert not any(stop in by_character for stop in stops)
    assert (by_character == text) == (not any(stop in text for stop in stops))
    by_token = "".join(play(split(text.encode(), cuts), tuple(stops)))
    assert not any(stop in by_token for stop in stops)
    assert text.startswith(by_token)
    assert (by_token == text) == (by_character == text)
