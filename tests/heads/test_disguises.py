import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.attacks import AttackDetector, Detector, line_ngrams
from heads.disguises import readings, undisguised


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("k i l l", "kill"),
        ("k i l l y o u", "killyou"),
        ("k i l l  y o u", "kill you"),
        ("d i e", "die"),
        ("I'll k.i.l.l you", "i'll kill you"),
        ("k - i - l - l you", "kill you"),
        ("죽 여 버 린 다", "죽여버린다"),
        ("죽 어 라 ㅋㅋ", "죽어라 ㅋㅋ"),
        ("죽 . 여 . 버 . 린 . 다", "죽여버린다"),
        ("죽.어", "죽어"),
        ("죽.어.라 좀", "죽어라 좀"),
        ("ㅈㅜㄱㅇㅓ", "죽어"),
        ("ㅈㅜㄱㅇㅓㅋㅋㅋ", "죽어ㅋㅋㅋ"),
        ("ㅈㅜㄱㅇㅓㅠㅠ", "죽어ㅠㅠ"),
        ("ㅇㅓㅂㅅㅇㅐㅈㅜㄴㄷㅏ", "없애준다"),
        ("죽ㅇㅓ", "죽어"),
        ("죽0어", "죽어"),
        ("kiiiill", "kill"),
        ("diiiie youuu", "die you"),
        ("killlll", "kill"),
        ("죽어어어어", "죽어"),
        ("k1ll y0u, b1tch", "kill you, bitch"),
        ("Y0U W1LL D1E", "you will die"),
        ("ｋ１ｌｌ ｙ０ｕ", "kill you"),
        ("i'll k!ll you!", "i'll kill you!"),
        ("wi11 you", "will you"),
        ("k\u200bi\u00adll", "kill"),
        ("I WILL BURN IT", "i will burn it"),
    ],
)
def test_a_disguise_is_taken_off(text: str, meant: str) -> None:
    assert undisguised(text) == meant
    assert readings(text) == [text, meant]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "안녕하세요, 등대까지 얼마나 걸려요?",
        "나 왜 안 줘? 한 번 더",
        "자, 그 쪽. 돈",
        "ㅋㅋㅋ ㅎㅎ ㅠㅠ ㅇㅇ ㄱㄱ ㄷㄷㅠㅠ",
        "오후 3시, 배 2척",
        "오후3시에 배2척, 사과3개",
        "The 3rd ferry, 10cm of water, 2pm, 40 gold.",
        "player1 has lv50 and 100xp, 1v1 me",
        "I am a good sailor; it is 12.5 miles",
        "What?! No... never!! No!no",
        "www xxx III",
        "½ cup… ok ™",
    ],
)
def test_what_is_typed_plainly_has_one_reading(text: str) -> None:
    assert readings(text) == [text]


@given(
    st.one_of(st.text(max_size=80), st.text("kilA1!0 .,-_ㄱㅏㄹㅓㄴ가나ㅋㅠ\u200b", max_size=40))
)
def test_any_text_is_read(text: str) -> None:
    assert readings(text)[0] == text


@given(st.text("kilA1!0 .,-_ㄱㅏㄹㅓㄴ가나ㅋㅠ죽", max_size=40))
def test_everyday_letters_are_read_like_any_others(text: str) -> None:
    assert undisguised(text).lower() == undisguised(f"{text}\u200b")


def test_the_worst_reading_of_a_line_counts() -> None:
    keys, _ = line_ngrams("kill you")
    weights = b"\x00\x40" * len(keys)  # float16 2.0 each
    known = Detector(keys=keys.astype("<u4").tobytes(), weights=weights, bias=-1, threshold=0.5)
    detector = AttackDetector(known)
    assert detector.logit("k1ll y0u") == detector.logit("kill you") > detector.logit("keel hue")
