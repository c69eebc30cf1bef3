"""Reads a line that was typed to get past a filter as its player wants it read.

"k i l l", "k1ll" and "kiiiill" are "kill"; "ㅈㅜㄱㅇㅓ" and "죽.어" are "죽어". A guess, of letters
alone: it stands beside the line as it was written, never in its place. Letters of other scripts
that look like these are not known.
"""

import re
import unicodedata
from collections import Counter

from heads.hangul import composed

READINGS = 1
"""Other rules are another number: what was fitted to readings knows those alone."""

LATIN_LOOKS = dict(zip("013457@$", "oieastas", strict=True))
"""Digits and signs that stand for Latin letters."""

_LETTER = r"[^\W\d_]"
_EDGE = r"[^\W_]"
_GAP = r"[\s.,·_*~|/\\-]{1,3}"
_SINGLES = re.compile(rf"(?<!{_EDGE}){_LETTER}(?:{_GAP}{_LETTER})+(?!{_EDGE})")
_GAPS = re.compile(_GAP)
_FEWEST_LATIN, _FEWEST_DOTTED, _FEWEST_SPACED = 3, 2, 5
"""Letters in a row, and syllables with marks or white space between, that are no words: four words
of one syllable are common in Korean."""

_CLUSTERS = "ㄱㅅ|ㄴㅈ|ㄴㅎ|ㄹㄱ|ㄹㅁ|ㄹㅂ|ㄹㅅ|ㄹㅌ|ㄹㅍ|ㄹㅎ|ㅂㅅ"
_CLUSTER_OF = dict(zip(_CLUSTERS.split("|"), "ㄳㄵㄶㄺㄻㄼㄽㄾㄿㅀㅄ", strict=True))
_NEXT = "[ㄱ-ㅎ][ㅏ-ㅣ]"
_JAMO = rf"([ㄱ-ㅎ])([ㅏ-ㅣ])((?:{_CLUSTERS}|[ㄱ-ㅊㅌㅍ]|ㅎ(?={_NEXT}))(?![ㅏ-ㅣ]))?"
"""A syllable taken apart; the ㅋ and ㅎ behind it are laughter."""
_SYLLABLE = re.compile(_JAMO)
_TAKEN_APART = re.compile(rf"(?:{_JAMO}){{2,}}|(?<=[가-힣])(?![ㅋㅎ]|[ㄱ-ㅎ][ㅠㅜㅡ]){_JAMO}")

_FILLED = re.compile(
    r"(?<=[가-힣])(?:[@#*^+=|/]{1,2}|[0-9]{1,2}(?![시분초개척명번마살국회편층년월일장권병잔대원냥배]))"
    r"(?=[가-힣])"
)
_WORD = re.compile(r"(?<![a-z0-9@$!])(?=[0-9@$!]*[a-z])[a-z0-9@$][a-z0-9@$!]*[a-z0-9@$]")
_LOOK_ALIKES = re.compile(r"[013457@$]|(?<=[b-df-hj-np-tv-z])!(?=[a-z])")
_LATIN = str.maketrans({**LATIN_LOOKS, "!": "i"})
_AMOUNT_OR_NAME = re.compile(
    r"\d{2,}[a-z]+|\d+(?:st|nd|rd|th|[ckm]m|kg|[ap]m|[xhm]p|min|sec|[a-z])s?|\dv\d|[a-z]+(?!\d*11\Z)\d+"
)
_STRETCHED = re.compile(rf"(?![ㄱ-ㅣ])({_LETTER})\1{{2,}}")
_DOUBLED = "flos"
"""Letters that English words have twice more often than once where they are stretched."""
_SHOUTED = re.compile(r"[A-Z]{2,}(?:\W+[A-Z]+)+|[A-Z]{4,}")
_EVERYDAY = re.compile("[\x00-\x7f가-힣ㄱ-ㅣ]*")
"""Letters that are written in one way only: nothing to fold but capitals."""


def readings(text: str) -> list[str]:
    """A line as it is written and, where it is disguised, as it is meant."""
    return list(dict.fromkeys((text, undisguised(text))))


def undisguised(text: str) -> str:
    """`text` without what hides its words, in small letters; itself where nothing does.

    Shouting hides words from an encoder that tells capitals apart.
    """
    written = plain = text.lower()
    if not _EVERYDAY.fullmatch(text):
        written = _folded(text)
        plain = "".join(char for char in written if unicodedata.category(char) not in ("Cf", "Mn"))
    plain = _TAKEN_APART.sub(_compose, plain)
    plain = _SINGLES.sub(_join, plain)
    plain = _FILLED.sub("", plain)
    plain = _WORD.sub(_spell, plain)
    plain = _STRETCHED.sub(_shorten, plain)
    return text if plain == written and not _SHOUTED.search(text) else plain


def _folded(text: str) -> str:
    """NFKC in small letters, but for jamo, of which NFKC makes others."""
    return "".join(
        char if "ㄱ" <= char <= "ㅣ" else unicodedata.normalize("NFKC", char)
        for char in unicodedata.normalize("NFC", text)
    ).lower()


def _compose(found: re.Match[str]) -> str:
    return _SYLLABLE.sub(_syllable, found[0])


def _syllable(found: re.Match[str]) -> str:
    lead, vowel, tail = found.groups(default="")
    return composed(lead, vowel, _CLUSTER_OF.get(tail, tail))


def _join(found: re.Match[str]) -> str:
    """Without the gap that is between most of the letters; another one parts words."""
    run = found[0]
    gaps = Counter(_GAPS.findall(run))
    gap, count = gaps.most_common(1)[0]
    num_letters = gaps.total() + 1
    if run.isascii():
        is_disguise = num_letters >= _FEWEST_LATIN
    elif gap.isspace():
        is_whole = run == found.string.strip(" \t\n.,!?~ㅋㅎㅠㅜ")
        is_disguise = num_letters >= (_FEWEST_LATIN if is_whole else _FEWEST_SPACED)
    else:
        is_disguise = num_letters >= _FEWEST_DOTTED and (count > 1 or len(gaps) == 1)
    if not is_disguise:
        return run
    return _GAPS.sub(lambda each: "" if each[0] == gap else " ", run)


def _spell(found: re.Match[str]) -> str:
    word = found[0]
    if not _LOOK_ALIKES.search(word) or _AMOUNT_OR_NAME.fullmatch(word):
        return word
    word = word.replace("11", "ll")
    return _LOOK_ALIKES.sub(lambda char: char[0].translate(_LATIN), word)


def _shorten(found: re.Match[str]) -> str:
    letter, text = found[1], found.string
    around = text[found.start() - 1 : found.start()] + text[found.end() : found.end() + 1]
    if not any(map(str.isalpha, around)):
        return found[0]  # "www", "xxx"
    return letter * 2 if letter in _DOUBLED else letter
