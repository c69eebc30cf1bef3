"""Cleans what a player said before anything reads it."""

import unicodedata

from server.errors import InvalidField


def clean_text(text: str) -> str:
    """`text` in NFC, without control characters and lone surrogates, white space runs as one."""
    kept = ("" if _is_dropped(char) else char for char in unicodedata.normalize("NFC", text))
    return " ".join("".join(kept).split())


def _is_dropped(char: str) -> bool:
    return unicodedata.category(char) in {"Cc", "Cs"} and not char.isspace()


def utterance_of(text: str | None, user_input: str | None) -> str:
    """The cleaned utterance of a request. Raises InvalidField if there is none, or two."""
    if text is not None and user_input is not None and text != user_input:
        raise InvalidField("$.user_input", "differs from `text`; send one of the two")
    raw = text if text is not None else user_input
    if raw is None:
        raise InvalidField("$.text", "is missing: what did the player say?")
    cleaned = clean_text(raw)
    if not cleaned:
        path = "$.text" if text is not None else "$.user_input"
        raise InvalidField(path, "is empty once white space and control characters are taken out")
    return cleaned
