"""Finds forbidden words however they are dressed up, without seeing them where they are not.

Texts are compared letter by letter, Hangul taken apart into jamo, so that "ㅅㅣㅂㅏㄹ" and "시발"
are one; what is no letter is left out, and digits and Latin letters between Hangul are tried both
as the jamo that they look like and as nothing. A Hangul word may begin inside another (prefixes are
many), but only with a syllable; a Latin one must be a word, but for a particle of Hangul behind it.
Over white space a word is found only where whole short pieces were pulled apart: "시 발" is the
word, "다시 발견" is not.

A keyword that itself holds digits, symbols or two scripts ("18놈", "f**k", "x발") is sought as it
is written: read as look-alikes or left out, its signs would make it another word. Signs around a
plain word ("#시발", "kill*") are none of its own.
"""

import re
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
_MASKS = "*#@%"
"""Punctuation, by Unicode, that is written in a letter's place."""
_POINTS = ".,"
"""What stands within a number."""
_MARKS = f"{_POINTS}:/~·–-"
"""What stands within a number or between two."""
_STRAY_MARKS = re.compile(rf"[{_MARKS}](?:(?<!\d.)|[{_MARKS}]*+(?!\d))")
_FEWEST_LETTERS = {"hangul": 2, "latin": 3}
"""Letters or syllables that are a word without the signs around it; "씨*" and "as*" hide more."""
_REMEMBERED = 0x250
"""Code points below which letters are remembered once read: Latin."""
_LONGEST_PIECE = 2
"""Letters or syllables of a piece that counts as pulled apart."""


@dataclass(frozen=True, slots=True)
class _Letter:
    """A letter or jamo, the word it stands in, and its place in a character or its look-alike."""

    value: str
    word: int
    is_first: bool
    is_last: bool
    is_look_alike: bool


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
        folded = _folded(text)
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
    plain = _folded(keyword)
    own = _without_signs_around("".join(filter(_is_written, plain)))
    letters = "".join(map(_jamo, own))
    return _Sought(keyword, letters, _kind(own), len(plain.split()) == 1)


def _folded(text: str) -> str:
    """In one way of writing letters; marks stay where they part digits: "1.8" is not "18"."""
    return _STRAY_MARKS.sub("", unicodedata.normalize("NFKC", text).casefold())


def _without_signs_around(keyword: str) -> str:
    """What signs at the edges of a plain word leave of it; all where they may stand for letters."""
    signs = "".join(char for char in keyword if not (char.isalpha() or char.isdigit()))
    word = keyword.strip(signs)
    kind = _kind(word)
    if kind == "written" or len(word) < _FEWEST_LETTERS[kind]:
        return keyword
    hides_letters = kind == "latin" and any(ord(sign) in _LATIN_LOOKS for sign in signs)  # "$hit"
    return keyword if hides_letters else word


def _kind(keyword: str) -> str:
    num_hangul = sum(map(_is_hangul, keyword))
    is_plain = keyword.isalpha() and num_hangul in (0, len(keyword))
    return ("hangul" if num_hangul else "latin") if is_plain else "written"


def _letters(text: str, looks: Looks, is_kept: Callable[[str], bool]) -> list[_Letter]:
    letters: list[_Letter] = []
    for number, word in enumerate(text.split()):
        for written in word:
            char = written.translate(looks)
            if is_kept(char):
                parts = _jamo(char)
                last = len(parts) - 1
                letters += [
                    _Letter(part, number, i == 0, i == last, char != written)
                    for i, part in enumerate(parts)
                ]
    return letters


def _jamo(char: str) -> str:
    """A Hangul syllable or conjoining jamo as compatibility jamo; others as they are."""
    return _CONJOINING.get(char) or decomposed(char)


def _is_hangul(char: str) -> bool:
    return char in _CONJOINING or "ㄱ" <= char <= "ㅣ" or "가" <= char <= "힣"


def _is_written(char: str) -> bool:
    """Whether a folded character is of a keyword's own: a letter, digit, mark or hiding sign.

    Other punctuation is not: "i'll kill you!" is found without it.
    """
    is_symbol = unicodedata.category(char)[0] == "S"
    return char.isalpha() or char.isdigit() or is_symbol or char in _MASKS or char in _MARKS


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
    begins_word = start == 0 or letters[start - 1].word != match[0].word
    ends_word = end == len(letters) or letters[end].word != match[-1].word
    if sought.kind == "written":
        is_whole = match[0].word == match[-1].word if sought.is_one_word else begins_word
        runs_in = not begins_word and _runs_on(letters[start - 1], match)
        return is_whole and not runs_in and (ends_word or not _is_run(match[-1], letters[end]))
    if sought.kind == "latin":
        return begins_word and (ends_word or _takes_particle(match, letters[end]))
    if not sought.is_one_word:
        return begins_word
    pieces = [[*group] for _, group in groupby(match, key=lambda letter: letter.word)]
    sizes = [sum(letter.is_first for letter in piece) for piece in pieces]
    return len(pieces) == 1 or (begins_word and ends_word and max(sizes) <= _LONGEST_PIECE)


def _takes_particle(match: list[_Letter], after: _Letter) -> bool:
    """Whether Hangul follows a Latin word, and no number of look-alikes: "455냥"."""
    return _is_hangul(after.value) and not all(letter.is_look_alike for letter in match)


def _runs_on(before: _Letter, match: list[_Letter]) -> bool:
    """Whether a match goes on with a number or word, "b@ss" by what its first sign stands for."""
    first = next((letter for letter in match if letter.value.isalpha()), match[0])
    return _is_run(before, match[0]) or _is_run(before, first)


def _is_run(one: _Letter, other: _Letter) -> bool:
    """Whether two of one word's letters are of one number, or of one script that is not Hangul."""
    values = one.value, other.value
    is_number = all(value.isdigit() or value in _POINTS for value in values)
    return is_number or all(value.isalpha() and not _is_hangul(value) for value in values)
