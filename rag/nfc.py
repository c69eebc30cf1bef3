"""One spelling for what looks the same: macOS writes Hangul as single jamo (NFD), others do not."""

from itertools import groupby
from typing import Any
from unicodedata import combining, normalize

import msgspec

_MOST_MARKS = 30
"""In a row, as in the Stream-Safe Text Format of UAX #15: no word of any language has more."""
_MADE_OF_MARKS = "\u0f73\u0f75\u0f81"
"""Not marks themselves, but NFC makes two of each; Unicode promises that no more will come."""


def to_nfc(text: str) -> str:
    """`text` in NFC, without what follows the first 30 combining marks in a row.

    NFC puts the marks of a row in order, which takes time as the square of their number.
    """
    return _with_fewer_marks(normalize("NFC", _with_fewer_marks(text)))


def _with_fewer_marks(text: str) -> str:
    if not any(map(_is_mark, text[_MOST_MARKS :: _MOST_MARKS + 1])):
        return text  # a longer row would hold one of these
    rows = ((is_mark, "".join(row)) for is_mark, row in groupby(text, _is_mark))
    return "".join(row[:_MOST_MARKS] if is_mark else row for is_mark, row in rows)


def _is_mark(char: str) -> bool:
    return combining(char) > 0 or char in _MADE_OF_MARKS


def in_nfc(value: Any) -> Any:
    """`value` with all its text in NFC, keys included: text, lists, dicts and Structs of them."""
    if isinstance(value, str):
        return to_nfc(value)
    if isinstance(value, list):
        return [in_nfc(item) for item in value]
    if isinstance(value, dict):
        return {in_nfc(key): in_nfc(item) for key, item in value.items()}
    if isinstance(value, msgspec.Struct):
        fields = {name: in_nfc(item) for name, item in msgspec.structs.asdict(value).items()}
        return msgspec.structs.replace(value, **fields)
    return value
