import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.attacks import AttackDetector, Detector, default_detector, line_ngrams
from heads.disguises import readings, undisguised


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("k i l l  y o u", "kill you"),
        ("I'll k i l l you", "I'll kill you"),
        ("k.i.l.l you", "kill you"),
        ("죽 여 버 린 다", "죽여버린다"),
        ("죽.어.라 좀", "죽어라 좀"),
        ("ㅈㅜㄱㅇㅓ", "죽어"),
        ("죽ㅇㅓ", "죽어"),
        ("너 ㄷㅏㄺ이지", "너 닭이지"),
        ("k1ll y0u, b1tch", "kill you, bitch"),
        ("i'll k!ll you!", "i'll kill you!"),
        ("wi11 you", "will you"),
        ("죽0어 2놈아", "죽어 2놈아"),
        ("diiiie youuu", "die you"),
        ("죽어어어어", "죽어"),
        ("I WILL BURN IT", "I will burn it"),
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
        "왜 안 줘",
        "ㅋㅋㅋ ㅎㅎ ㅠㅠ ㅇㅇ ㄱㄱ ㄷㄷㅠㅠ",
        "The 3rd ferry, 10cm of water, 2pm, 40 gold.",
        "I am a good sailor; it is 12.5 miles",
        "What?! No... never!!",
        "오후 3시, 배 2척",
    ],
)
def test_what_is_typed_plainly_has_one_reading(text: str) -> None:
    assert readings(text) == [text]


@given(st.text(max_size=200))
def test_any_text_is_read(text: str) -> None:
    assert readings(text)[0] == text
    assert len(undisguised(text)) <= len(text)


def test_the_worst_reading_of_a_line_counts() -> None:
    keys, _ = line_ngrams("kill you")
    weights = b"\x00\x40" * len(keys)  # float16 2.0 each
    known = Detector(keys=keys.astype("<u4").tobytes(), weights=weights, bias=-1, threshold=0.5)
    detector = AttackDetector(known)
    assert detector.logit("k1ll y0u") == detector.logit("kill you") > detector.logit("keel hue")
    assert default_detector().logit("k1ll y0u") >= default_detector().logit("kill you")
