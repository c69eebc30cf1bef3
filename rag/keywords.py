"""Finds forbidden words however they are dressed up, without seeing them where they are not.

Texts are compared letter by letter, Hangul taken apart into jamo, so that "ㅅㅣㅂㅏㄹ" and "시발"
are one; what is no letter is left out, and digits and Latin letters between Hangul are tried both
as the jamo that they look like and as nothing. A Hangul word may begin inside another (prefixes are
many), but only with a syllable; a Latin one must be a word. Over white space a word is found only
where whole short pieces were pulled apart: "시 발" is the word, "다시 발견" is not.

A keyword that itself holds digits, symbols or two scripts ("18놈", "f**k", "x발") is sought as it
is written: read as look-alikes or left out, its signs would make it another word.
"""

import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple, Self, TypeAlias

from heads.disguises import LATIN_LOOKS
from heads.hangul import LEADS, TAILS, VOWELS, decomposed

Looks: TypeAlias = dict[int, str] | dict[int, int]
"""What letters are read as; a table of str.translate."""

Reading: TypeAlias = tuple[Looks, Callable[[str], bool]]
"""What letters are read as, and which of them count."""

_CONJOINING: dict[str, str] = {
    chr(first + number): jamo
    for first, jamos in ((0x1100, LEADS), (0x1161, VOWELS), (0x11A7, TAILS))
    for number, jamo in enumerate(jamos)
    if jamo
}
"""What NFKC makes of single jamo."""
_JAMO_LOOKS: Looks = str.maketrans(
    {"1": "ㅣ", "l": "ㅣ", "i": "ㅣ", "|": "ㅣ", "0": "ㅇ", "o": "ㅇ", "7": "ㄱ"}
)
_LATIN_LOOKS: Looks = str.maketrans({**LATIN_LOOKS, "|": "l"})
_NO_LOOKS: Looks = {}
_MASKS = "*#@%&_"
"""Punctuation, by Unicode, that is written in a letter's place."""
_REMEMBERED = 0x250
"""Code points below which letters are remembered once read: Latin."""
_LONGEST_PIECE = 2
"""Letters or syllables of a piece that counts as pulled apart."""


@dataclass(frozen=True, slots=True)
class _Letter:
    """A letter or jamo, the word it stands in, and whether it begins and ends its character."""

    value: str
    word: int
    is_first: bool
    is_last: bool


class _Sought(NamedTuple):
    """A keyword, its letters, the reading to look for them in, and whether they are one word."""

    keyword: str
    letters: str
    kind: str
    is_one_word: bool


@dataclass(frozen=True, slots=True)
class Keywords:
    """Words to look for, read once; those without a letter, digit or symbol are left out."""

    sought: tuple[_Sought, ...] = ()

    @classmethod
    def of(cls, words: Iterable[str]) -> Self:
        """`words` in their order."""
        return cls(tuple(sought for sought in map(_sought, words) if sought.letters))

    def __add__(self, others: Self) -> Self:
        return type(self)(self.sought + others.sought)

    def __iter__(self) -> Iterator[str]:
        return (sought.keyword for sought in self.sought)

    def found_in(self, text: str) -> str | None:
        """The first that `text` holds, plain or disguised; None if it holds none."""
        folded = unicodedata.normalize("NFKC", text).casefold()
        lines: dict[str, list[tuple[str, Reading]]] = {}
        for sought in self.sought:
            if sought.kind not in lines:
                lines[sought.kind] = _lines(folded, sought.kind)
            for line, reading in lines[sought.kind]:
                # Letters are looked at one by one only where they stand in a row at all.
                if sought.letters in line and _holds(_letters(folded, *reading), sought):
                    return sought.keyword
        return None


NO_KEYWORDS = Keywords()


@lru_cache(maxsize=64)  # a turn asks for several lists of words
def _lines(folded: str, kind: str) -> list[tuple[str, Reading]]:
    """The letters of a text in a row, by each reading of a kind."""
    return [
        (folded.translate(look), reading)
        for look, reading in zip(_LOOKS[kind], _READINGS[kind], strict=True)
    ]


def _sought(keyword: str) -> _Sought:
    plain = unicodedata.normalize("NFKC", keyword).casefold()
    kept = [char for char in plain if _is_written(char)]
    hangul = [char for char in kept if _is_hangul(char)]
    is_plain = all(map(str.isalpha, kept)) and len(hangul) in (0, len(kept))
    kind = ("hangul" if hangul else "latin") if is_plain else "written"
    return _Sought(keyword, "".join(map(_jamo, kept)), kind, len(plain.split()) == 1)


def _letters(text: str, looks: Looks, is_kept: Callable[[str], bool]) -> list[_Letter]:
    letters: list[_Letter] = []
    for number, word in enumerate(text.split()):
        for char in word.translate(looks):
            if is_kept(char):
                parts = _jamo(char)
                last = len(parts) - 1
                letters += [_Letter(p, number, i == 0, i == last) for i, p in enumerate(parts)]
    return letters


def _jamo(char: str) -> str:
    """A Hangul syllable or conjoining jamo as compatibility jamo; others as they are."""
    return _CONJOINING.get(char) or decomposed(char)


def _is_hangul(char: str) -> bool:
    return char in _CONJOINING or "ㄱ" <= char <= "ㅣ" or "가" <= char <= "힣"


def _is_written(char: str) -> bool:
    """Whether a character is of a keyword's own: a letter, a digit, or a sign that hides one.

    Punctuation is not: "i'll kill you!" is found without it.
    """
    is_symbol = unicodedata.category(char)[0] == "S" and char != "~"
    return char.isalpha() or char.isdigit() or is_symbol or char in _MASKS


class _Line(dict[int, str | None]):
    """A table of str.translate that leaves the letters of a reading, and nothing else."""

    def __init__(self, looks: Looks, is_kept: Callable[[str], bool]) -> None:
        self._looks, self._is_kept = looks, is_kept

    def __missing__(self, code: int) -> str | None:
        char = chr(code).translate(self._looks)
        value = _jamo(char) if self._is_kept(char) else None
        if code < _REMEMBERED or _is_hangul(chr(code)):  # else a stranger's text could fill memory
            self[code] = value
        return value


_READINGS: dict[str, list[Reading]] = {
    "hangul": [(_JAMO_LOOKS, _is_hangul), (_NO_LOOKS, _is_hangul)],
    "latin": [(_LATIN_LOOKS, str.isalpha)],
    "written": [(_NO_LOOKS, _is_written)],
}
"""As Hangul look-alikes are read as jamo, or left out; as Latin, as the letters they look like;
or all as it is written."""
_LOOKS = {kind: [_Line(*reading) for reading in readings] for kind, readings in _READINGS.items()}


def _holds(letters: list[_Letter], sought: _Sought) -> bool:
    line = "".join(letter.value for letter in letters)
    start = line.find(sought.letters)
    while start >= 0:
        if _is_found(letters, start, start + len(sought.letters), sought):
            return True
        start = line.find(sought.letters, start + 1)
    return False


def _is_found(letters: list[_Letter], start: int, end: int, sought: _Sought) -> bool:
    """Whether the match `letters[start:end]` is the keyword and not a chance of neighbours."""
    match = letters[start:end]
    if not (match[0].is_first and match[-1].is_last):
        return False
    if sought.kind == "written":
        edges = letters[max(start - 1, 0) : start + 1], letters[end - 1 : end + 1]
        is_whole = match[0].word == match[-1].word or not sought.is_one_word
        return is_whole and not any(map(_is_run, edges))
    begins_word = start == 0 or letters[start - 1].word != match[0].word
    ends_word = end == len(letters) or letters[end].word != match[-1].word
    if sought.kind == "latin":
        return begins_word and ends_word
    if not sought.is_one_word:
        return begins_word
    pieces = [[*group] for _, group in groupby(match, key=lambda letter: letter.word)]
    sizes = [sum(letter.is_first for letter in piece) for piece in pieces]
    return len(pieces) == 1 or (begins_word and ends_word and max(sizes) <= _LONGEST_PIECE)


def _is_run(pair: list[_Letter]) -> bool:
    """Whether two neighbours are of one number or one word that is not Hangul."""
    if len(pair) < 2 or pair[0].word != pair[1].word:
        return False
    values = [letter.value for letter in pair]
    is_number = all(map(str.isdigit, values))
    return is_number or all(value.isalpha() and not _is_hangul(value) for value in values)
