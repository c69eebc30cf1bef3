from typing import Any
from unicodedata import normalize

import pytest

from rag.documents import NeededNames
from rag.nfc import in_nfc

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
