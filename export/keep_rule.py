"""Which pieces of a vocabulary an NPC needs that hears and speaks Korean and English.

The declared scripts are the characters in `SCRIPTS`, as far as the base has them as one piece
(Gemma 3 has 1,733 of the 11,172 Hangul syllables; the others are three byte tokens in it, before
trimming as after). Every one of those characters is kept. Longer pieces are kept when they are

* Hangul alone, all of them;
* whitespace alone, all of them;
* a space and ASCII letters (` word`, ` Word`), or a capitalised word without the space (what a text
  begins with), among the first `COMMON_WORDS` of the vocabulary, whose order is that of its merges
  and so roughly of frequency;
* ASCII letters alone (`word`, `Word`, `WORD`), ASCII digits alone, or punctuation and symbols of
  the declared scripts alone, among the first `COMMON_PARTS`;
* English contractions (`'s`, `n't`).

Byte tokens and control tokens are kept, save placeholders: a few stay for special tokens to claim.
The rule looks at no text. `corpus_rule` does: it keeps the pieces that occur in given files.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from gguf import TokenType

from export.vocabulary import Vocabulary, decode_bytes, is_byte_letter

KeepRule: TypeAlias = Callable[[Vocabulary], set[int]]
"""The NORMAL and USER_DEFINED pieces to keep; `export.trim_vocab` adds what must stay."""

COMMON_WORDS = 100_000
"""Rank up to which a whole word is kept. On 100 English strings of the NPC documents the NLL rises
by 1.2%, without the capitalised words by 2.0%, with 60,000 by some 5%, with 130,000 by 0.7% (for
12,500 rows more). Telling English from other Latin words by embedding rows did no better.
"""

COMMON_PARTS = 25_000
"""Rank up to which other pieces of several characters are kept: in running text few come later
(50,000 for the lower-case ones adds 2,400 rows and does nothing for the NLL).
"""

NUM_PLACEHOLDERS = 32
"""Free slots that stay: seven for the special tokens, the others for whoever needs one later."""

SCRIPTS = {
    "whitespace": ((0x09, 0x0A), (0x0D, 0x0D), (0x20, 0x20), (0x3000, 0x3000)),
    "ASCII": ((0x21, 0x7E),),
    "Latin-1": ((0xA1, 0xFF),),
    "Hangul syllables": ((0xAC00, 0xD7A3),),
    "Hangul jamo": ((0x1100, 0x11FF), (0x3131, 0x318E), (0xA960, 0xA97C), (0xD7B0, 0xD7FB)),
    "punctuation": ((0x2010, 0x2027), (0x2030, 0x205E)),
    "CJK punctuation": ((0x3001, 0x303F), (0x30FB, 0x30FB), (0xFF01, 0xFF65), (0xFFE0, 0xFFE6)),
    "currency and units": ((0x20A0, 0x20C0), (0x2100, 0x214F), (0x3200, 0x33FF)),
    "arrows, circled numbers, shapes": ((0x2190, 0x21FF), (0x2460, 0x24FF), (0x25A0, 0x25FF)),
    "mathematics": ((0x2200, 0x22FF),),
    "emoji": (
        (0x2600, 0x27BF),
        (0x1F1E6, 0x1F1FF),
        (0x1F300, 0x1F64F),
        (0x1F680, 0x1F6FF),
        (0x1F900, 0x1F9FF),
        (0x1FA70, 0x1FAFF),
        (0x200D, 0x200D),
        (0xFE0F, 0xFE0F),
    ),
}
"""Code point ranges, both ends included."""

_HANGUL = re.compile(r" ?[\u1100-\u11ff\u3131-\u318e\ua960-\ua97c\uac00-\ud7a3\ud7b0-\ud7fb]+")
_WORD = re.compile(r" [A-Za-z][a-z]*|[A-Z][a-z]+")
_PART = re.compile(r" ?(?:[A-Za-z]?[a-z]*|[A-Z]+)")
_DIGITS = re.compile(r" ?[0-9]+")
_CONTRACTION = re.compile(r"(?:n?['’](?:s|t|re|ve|ll|d|m)|n['’]t)", re.IGNORECASE)


def is_declared(character: str) -> bool:
    """Whether a character belongs to the declared scripts."""
    return any(
        first <= ord(character) <= last for ranges in SCRIPTS.values() for first, last in ranges
    )


def declared_characters() -> Iterator[str]:
    """Every character of the declared scripts."""
    for ranges in SCRIPTS.values():
        for first, last in ranges:
            yield from map(chr, range(first, last + 1))


def script_rule(
    vocabulary: Vocabulary, *, common_words: int = COMMON_WORDS, common_parts: int = COMMON_PARTS
) -> set[int]:
    """The default rule of this module's description."""
    return {
        token
        for rank, token in enumerate(_text_pieces(vocabulary))
        if _is_kept(vocabulary, token, rank < common_words, rank < common_parts)
    }


def corpus_rule(occurring: Iterable[int]) -> KeepRule:
    """A rule that keeps the pieces that `occurring` lists, and all single declared characters."""
    found = set(occurring)

    def rule(vocabulary: Vocabulary) -> set[int]:
        return {
            token
            for token in _text_pieces(vocabulary)
            if token in found or _is_character(vocabulary, token)
        }

    return rule


def _text_pieces(vocabulary: Vocabulary) -> Iterator[int]:
    for token, kind in enumerate(vocabulary.types):
        if kind in (TokenType.NORMAL, TokenType.USER_DEFINED):
            yield token


def _is_character(vocabulary: Vocabulary, token: int) -> bool:
    text = vocabulary.text(token)
    return text is not None and len(text) == 1 and is_declared(text)


def _is_kept(
    vocabulary: Vocabulary, token: int, is_common_word: bool, is_common_part: bool
) -> bool:
    text = vocabulary.text(token)
    if text is None:
        return _may_begin_declared(vocabulary.tokens[token])
    if len(text) == 1:
        return is_declared(text)
    if not text.strip() or _HANGUL.fullmatch(text) or _CONTRACTION.fullmatch(text):
        return True
    if is_common_word and _WORD.fullmatch(text):
        return True
    is_part = _PART.fullmatch(text) or _DIGITS.fullmatch(text) or all(map(_is_mark, text))
    return is_common_part and bool(is_part)


def _is_mark(character: str) -> bool:
    return is_declared(character) and unicodedata.category(character)[0] in "PSZMC"


def _may_begin_declared(piece: str) -> bool:
    """Whether a byte-level piece that ends inside a character may begin a declared one.

    Lead bytes: E2 punctuation and symbols, E3 CJK punctuation and jamo, EA to ED Hangul, EF
    fullwidth forms, F0 emoji. E4 to E9 begin the Han characters.
    """
    if is_byte_letter(piece):
        return True
    try:
        raw = decode_bytes(piece).lstrip(b" ")
    except KeyError:
        return False
    return 1 < len(raw) <= 3 and raw[0] in b"\xe2\xe3\xea\xeb\xec\xed\xef\xf0"
