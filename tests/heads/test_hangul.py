import pytest

from heads.hangul import composed, decomposed


def test_every_syllable_is_put_together_as_it_was_taken_apart() -> None:
    for code in range(ord("가"), ord("힣") + 1):
        lead, vowel, *tail = list(decomposed(chr(code)))
        assert composed(lead, vowel, "".join(tail)) == chr(code)


@pytest.mark.parametrize("char", ["a", "ㄱ", "ㅏ", "漢", "\u1100"])
def test_what_is_no_syllable_stays(char: str) -> None:
    assert decomposed(char) == char


@pytest.mark.parametrize(
    "jamo", [("ㄳ", "ㅏ", ""), ("", "ㅏ", ""), ("ㄱ", "x", ""), ("ㄱ", "ㅏ", "ㄸ")]
)
def test_jamo_that_make_no_syllable_stay(jamo: tuple[str, str, str]) -> None:
    assert composed(*jamo) == "".join(jamo)
