"""Cleans what a request says before anything reads it."""

import re
import unicodedata

from rag.nfc import to_nfc
from server.errors import InvalidField

_DROPPED = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters that are not white space (category Cc), and lone surrogates (Cs)."""


def without_controls(text: str) -> str:
    """`text` without control characters, white space excepted, and lone surrogates."""
    return _DROPPED.sub("", text)


def clean_text(text: str) -> str:
    """`text` by `without_controls` and `to_nfc`, white space runs as one."""
    return " ".join(to_nfc(without_controls(text)).split())


def utterance_of(text: str | None, user_input: str | None) -> str:
    """The cleaned utterance of a request. Raises InvalidField if there is none, or two."""
    if text is not None and user_input is not None and text != user_input:
        raise InvalidField("$.user_input", "differs from `text`; send one of the two")
    raw = text if text is not None else user_input
    if raw is None:
        raise InvalidField("$.text", "is missing: what did the player say?")
    cleaned = clean_text(raw)
    if all(char == " " or unicodedata.category(char) == "Cf" for char in cleaned):
        path = "$.text" if text is not None else "$.user_input"
        raise InvalidField(path, "is empty but for white space, control and zero-width characters")
    return cleaned
