from collections.abc import Callable
from itertools import cycle, islice
from typing import Any
from unicodedata import combining, is_normalized, normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag import nfc
from rag.documents import NeededNames
from rag.nfc import in_nfc, to_nfc

APART = normalize("NFD", "등심지")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (APART, "등심지"),
        ([APART, [APART], 1], ["등심지", ["등심지"], 1]),
        ({APART: {"key": APART}}, {"등심지": {"key": "등심지"}}),
        (NeededNames(mandatory=[APART]), NeededNames(mandatory=["등심지"])),
        (True, True),
        (None, None),
    ],
)
def test_text_is_put_together_wherever_it_stands(value: Any, expected: object) -> None:
    assert in_nfc(value) == expected
    assert type(in_nfc(value)) is type(expected)


@given(st.text(st.characters(categories=["L", "Mn", "Mc", "Nd", "P", "Zs"]), max_size=15))
def test_ordinary_text_is_only_put_together(text: str) -> None:
    assert to_nfc(text) == normalize("NFC", text)


@pytest.mark.parametrize("mark", ["\u0316", "\u0344", "\u0f73", "\U0001d165"])
def test_only_the_first_marks_in_a_row_are_kept(mark: str) -> None:
    kept = to_nfc(f"안{mark * 1_000}녕")
    assert kept == to_nfc(f"안{mark * 30}녕")
    assert kept[1:-1] == normalize("NFD", mark * 30)[:30]


PIECES = ["a", "ấ", "가", " ", "\u0315", "\u0316", "\u0344", "\u0f73", "\u09c7", "\u09be"]
ROWS = st.tuples(st.sampled_from(PIECES), st.integers(1, 40))


@given(st.lists(ROWS, max_size=6))
def test_what_is_in_nfc_stays_as_it_is(rows: list[tuple[str, int]]) -> None:
    text = to_nfc("".join(piece * count for piece, count in rows))
    assert to_nfc(text) == text
    assert is_normalized("NFC", text)


@pytest.mark.parametrize("wrapped", [lambda text: text, lambda text: [{text: text}]])
def test_no_long_row_of_marks_is_ever_put_in_order(
    wrapped: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """That would take time as the square of its length."""
    seen: list[str] = []

    def noted(form: Any, text: str) -> str:
        seen.append(text)
        return normalize(form, text)

    monkeypatch.setattr(nfc, "normalize", noted)
    marks = sorted(filter(combining, map(chr, range(0x300, 0x3000))), key=combining, reverse=True)
    in_nfc(wrapped("a" + "".join(islice(cycle(marks), 1_999))))
    assert {len(text) for text in seen} == {31}
