"""Reads a line that was typed to get past a filter as its player wants it read.

"k i l l  y0u" is "kill you", "ㅈㅜㄱㅇㅓ" and "죽.어" are "죽어", "diiiie" is "die". A guess, of
letters alone: it stands beside the line as it was written, never in its place.
"""

import re

from heads.hangul import composed

_LETTER = r"[^\W\d_]"
_GAP = r"[ .,·_*~|/\\-]"
_SPACED_OUT = re.compile(rf"(?<!\w){_LETTER}(?:{_GAP}{{1,3}}[^\W_]){{3,}}(?!\w)")
"""Single letters or syllables, four in a row: words have more than one, or stand between longer."""
_DOTTED = re.compile(rf"(?<!\w){_LETTER}(?:[.,·_*~|/\\-]{_LETTER}){{2,}}(?!\w)")
_GAPS = re.compile(rf"{_GAP}+")
_JAMO_RUN = re.compile(r"[ㄱ-ㅣ]{2,}")
_SYLLABLE = re.compile(r"([ㄱ-ㅎ])([ㅏ-ㅣ])([ㄱ-ㅎ](?![ㅏ-ㅣ]))?")
_SYLLABLES = re.compile(rf"(?:{_SYLLABLE.pattern})+")
_BETWEEN_HANGUL = re.compile(r"(?<=[가-힣])[0-9@#*^+=]{1,2}(?=[가-힣])")
_LOOKS_LATIN = re.compile(r"(?<![a-z0-9@$!])(?=[0-9@$!]*[a-z])[a-z0-9@$][a-z0-9@$!]*[a-z0-9@$]")
_LOOK_ALIKES = re.compile(r"[013457@$!]")
_LATIN = str.maketrans("013457@$!", "oieastasi")
_AMOUNT = re.compile(r"\d+(?:[a-z]|st|nd|rd|th|cm|mm|km|kg|am|pm|min|gold)s?")
_REPEATED = re.compile(rf"(?![ㄱ-ㅣ])({_LETTER})\1{{2,}}")
_CAPITALS = re.compile(r"[A-Z]{2,}(?:\W+[A-Z]+)+|[A-Z]{4,}")


def readings(text: str) -> list[str]:
    """A line as it is written and, where it is disguised, as it is meant."""
    return list(dict.fromkeys((text, undisguised(text))))


def undisguised(text: str) -> str:
    """`text` without what hides its words; the same text where nothing does."""
    plain = _SPACED_OUT.sub(_join, text)
    plain = _DOTTED.sub(_join, plain)
    plain = _JAMO_RUN.sub(_compose, plain)
    plain = _BETWEEN_HANGUL.sub("", plain)
    plain = _CAPITALS.sub(lambda found: found[0].lower(), plain)
    plain = _LOOKS_LATIN.sub(_spell, plain)
    return _REPEATED.sub(r"\1", plain)


def _join(found: re.Match[str]) -> str:
    """White space parts words where letters are parted otherwise, or where it is wider."""
    word_gap = " " if _GAPS.search(found[0].replace(" ", "")) else "  "
    return _GAPS.sub(lambda gap: " " if word_gap in gap[0] else "", found[0])


def _compose(found: re.Match[str]) -> str:
    run = found[0]
    if not _SYLLABLES.fullmatch(run):
        return run
    return _SYLLABLE.sub(lambda jamo: composed(*jamo.groups(default="")), run)


def _spell(found: re.Match[str]) -> str:
    word = found[0]
    if not _LOOK_ALIKES.search(word) or _AMOUNT.fullmatch(word):
        return word
    return word.replace("11", "ll").translate(_LATIN)
