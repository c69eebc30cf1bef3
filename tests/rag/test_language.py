import pytest

from rag.documents import Lang, Localised, localise
from rag.language import detect_language


@pytest.mark.parametrize(
    ("text", "default", "expected"),
    [
        ("안녕하세요", "en", "ko"),
        ("Hello", "ko", "en"),
        ("Sora 씨, hello!", "en", "ko"),
        ("ㅋㅋㅋ", "en", "ko"),
        ("\u1112\u1161\u11ab", "en", "ko"),
        ("123 !?", "ko", "ko"),
        ("…", "en", "en"),
        ("", "ko", "ko"),
        ("привет", "en", "en"),
    ],
)
def test_hangul_is_korean_latin_alone_is_english_and_else_the_npcs_own_language(
    text: str, default: Lang, expected: Lang
) -> None:
    assert detect_language(text, default) == expected


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("plain", "ko", "plain"),
        ({"ko": "네", "en": "yes"}, "ko", "네"),
        ({"ko": "네", "en": "yes"}, "en", "yes"),
        ({"ko": "네"}, "en", "네"),
        ({}, "ko", ""),
    ],
)
def test_a_text_is_given_in_the_language_asked_or_the_one_it_has(
    text: Localised, lang: Lang, expected: str
) -> None:
    assert localise(text, lang) == expected
