"""Hangul syllables and the compatibility jamo that they are typed with (Unicode 3.12)."""

LEADS = tuple("ㄱㄲㄴㄷㄸㄹㅁㅂㅃㅅㅆㅇㅈㅉㅊㅋㅌㅍㅎ")
VOWELS = tuple("ㅏㅐㅑㅒㅓㅔㅕㅖㅗㅘㅙㅚㅛㅜㅝㅞㅟㅠㅡㅢㅣ")
TAILS = ("", *"ㄱㄲㄳㄴㄵㄶㄷㄹㄺㄻㄼㄽㄾㄿㅀㅁㅂㅄㅅㅆㅇㅈㅊㅋㅌㅍㅎ")
_FIRST, _LAST = ord("가"), ord("힣")


def decomposed(char: str) -> str:
    """The two or three jamo of a syllable; another character as it is."""
    if not _FIRST <= ord(char) <= _LAST:
        return char
    lead, rest = divmod(ord(char) - _FIRST, len(VOWELS) * len(TAILS))
    vowel, tail = divmod(rest, len(TAILS))
    return "".join((LEADS[lead], VOWELS[vowel], TAILS[tail]))


def composed(lead: str, vowel: str, tail: str) -> str:
    """The syllable of a lead, a vowel and a tail or ""; where there is none, these."""
    if lead not in LEADS or vowel not in VOWELS or tail not in TAILS:
        return lead + vowel + tail
    number = (LEADS.index(lead) * len(VOWELS) + VOWELS.index(vowel)) * len(TAILS)
    return chr(_FIRST + number + TAILS.index(tail))
