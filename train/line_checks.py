"""What can be wrong with a generated line, told from its text alone."""

import re
import unicodedata
from collections.abc import Sequence

from rag.documents import Lang
from rag.language import detect_language

NGRAM = 4

_MARKUP = re.compile(
    r"<[/|]?[A-Za-z0-9_]+[|/]?>"  # <SYS>, </RESPONSE>, <unused7>, <bos>, <|im_end|>, <0x0A>
    r"|<[|｜][^<>]*[|｜]>"  # the same with white space or wide bars in it
    r"|\[/?INST\]"
    r"|(?<![A-Za-z_])[a-z_]+=(?:\"|[+=-])"  # the decision's words: trust=+ give_item="…"
)
_NOT_A_LETTER = re.compile(r"[\W_]+")
_LOOP = re.compile(rf"(.{{{NGRAM},}}?)\1\1")
_HANGUL_OR_LATIN = ("HANGUL", "LATIN")


def markup(text: str) -> str | None:
    """The first tag, special token or word of the prompt's format in `text`."""
    match = _MARKUP.search(text)
    return match.group() if match else None


def spoken_language(text: str, default: Lang) -> Lang | None:
    """The language of `text`; None where letters of a third script occur, `default` without any.

    Where both scripts occur the words decide: those with Hangul against those in small Latin
    letters, `default` at a tie. Capitalised ones count for neither, being names as often as not:
    "Edda한테 물어봐" and even "Edda, Wren? 몰라" are Korean, "Ask 달 at the market" is English.
    """
    if any(c.isalpha() and not unicodedata.name(c, "").startswith(_HANGUL_OR_LATIN) for c in text):
        return None
    words = [word for word in _NOT_A_LETTER.split(text) if word]
    korean = sum(detect_language(word, "en") == "ko" for word in words)
    english = sum(detect_language(word, "ko") == "en" and word.islower() for word in words)
    if not korean:
        return detect_language(text, default)
    if korean == english:
        return default
    return "ko" if korean > english else "en"


def repetition(text: str, default: Lang) -> float:
    """Share of the line's 4-grams that occurred before in it, in [0, 1); 0 if it has none.

    seq-rep-4 of Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training". Of words
    in English; in Korean of syllables, white space and punctuation left out, for a Korean line is
    half as many words, each with an ending that changes, so that "좋아 좋아 좋아" has no 4-gram of
    words at all. Syllables hardly ever repeat by themselves (0.1% in the labelled responses), Latin
    letters do (1.7%; words 0.03%).
    """
    is_korean = (spoken_language(text, default) or default) == "ko"
    words = _NOT_A_LETTER.sub(" ", text.casefold()).split()
    units: Sequence[str] = "".join(words) if is_korean else words
    grams = [tuple(units[i : i + NGRAM]) for i in range(len(units) - NGRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def loop(text: str) -> str | None:
    """The first passage of 4 letters or more that comes three times in a row, if any does.

    White space, punctuation and case do not count. No labelled response has one.
    """
    match = _LOOP.search(_NOT_A_LETTER.sub("", text.casefold()))
    return match[1] if match else None
