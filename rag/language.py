"""Which of the served languages a text is in."""

import re

from rag.documents import Lang

_HANGUL = re.compile(r"[\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3]")
_LATIN = re.compile(r"[A-Za-z]")


def detect_language(text: str, default: Lang) -> Lang:
    """Korean if `text` has any Hangul, English if it has Latin letters only, else `default`."""
    if _HANGUL.search(text):
        return "ko"
    return "en" if _LATIN.search(text) else default
