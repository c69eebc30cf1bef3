"""Cleans what a player said before anything reads it."""

import re
import unicodedata

from server.errors import InvalidField

_DROPPED = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
"""Control characters that are not white space (category Cc), and lone surrogates (Cs)."""


def clean_text(text: str) -> str:
    """`text` in NFC, without control characters and lone surrogates, white space runs as one."""
    return " ".join(unicodedata.normalize("NFC", _DROPPED.sub("", text)).split())


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
