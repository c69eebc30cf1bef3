import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.attacks import AttackDetector, Detector, default_detector, line_ngrams
from heads.ngrams import Hashes
from train.encoder_data import TriggerLine
from train.fit_detector import fit_detector


@given(st.text(max_size=60))
def test_every_text_has_a_score(text: str) -> None:
    assert 0 <= default_detector().score(text) <= 1


@pytest.mark.parametrize(
    ("text", "same"), [("Ｋｉｌｌ  him", "kill him"), ("  가\n나 ", "가 나"), ("ＡＢ", "ab")]
)
def test_width_case_and_white_space_make_no_difference(text: str, same: str) -> None:
    assert line_ngrams(text)[0].tolist() == line_ngrams(same)[0].tolist()


def detector(keys: Hashes) -> Detector:
    """Each n-gram weighs something else."""
    weights = np.linspace(-3, 3, len(keys)).astype("<f2")
    raw = keys.astype("<u4").tobytes()
    return Detector(keys=raw, weights=weights.tobytes(), bias=0.25, threshold=0.5)


def test_the_score_is_that_of_a_logistic_regression() -> None:
    keys, logs = line_ngrams("a plea for peas")
    shares = logs / np.linalg.norm(logs)
    logit = 0.25 + float(np.linspace(-3, 3, len(keys)).astype("<f2").astype(float) @ shares)
    assert AttackDetector(detector(keys)).score("a plea for peas") == pytest.approx(
        1 / (1 + math.exp(-logit))
    )


def test_ngrams_that_are_not_known_count_for_nothing() -> None:
    strange = line_ngrams("xyz")[0]
    for keys in (np.setdiff1d(line_ngrams("plea")[0], strange), np.zeros(0, np.uint32)):
        score = AttackDetector(detector(keys)).score("xyz")
        assert score == pytest.approx(1 / (1 + math.exp(-0.25)))


def made_up(numbers: range) -> list[TriggerLine]:
    return [
        TriggerLine(text=f"{word} number {n}", lang="en", hostile=is_bad, kind="threat")
        for n in numbers
        for word, is_bad in (("I will break you", True), ("I will bake you bread", False))
    ]


def test_what_is_fitted_tells_the_lines_apart() -> None:
    fitted = fit_detector(made_up(range(20)), made_up(range(20, 30)), [])
    reached = fitted.evaluation["validation"]
    assert (reached["num_lines"], reached["precision"], reached["recall"]) == (20, 1.0, 1.0)
    scorer = AttackDetector(fitted)
    assert scorer.score("I will break you number 99") >= fitted.threshold
    assert scorer.score("I will bake you bread number 99") < fitted.threshold


def test_ordinary_remarks_keep_the_threshold_of_ngrams_up() -> None:
    train, validation = made_up(range(20)), made_up(range(20, 30))
    play = [TriggerLine(text="I will break your bread", lang="en", hostile=False, kind="plain")]
    alone, kept = fit_detector(train, validation, []), fit_detector(train, validation, play)
    assert AttackDetector(alone).score(play[0].text) >= alone.threshold
    assert AttackDetector(kept).score(play[0].text) < kept.threshold
    assert kept.evaluation["validation"]["ordinary"] == {"num_lines": 1, "fired": 0}


def test_the_shipped_detector_knows_an_attack_from_what_looks_like_one() -> None:
    scorer = default_detector()
    for attack in (
        "말 안 들으면 네 목을 따 버릴 거야.",
        "Pay me or I'll break your legs, old man.",
    ):
        assert scorer.score(attack) > 0.5, attack
    for harmless in ("안녕하세요, 도와드릴까요?", "배고파 죽겠네.", "Thank you for the soup."):
        assert scorer.score(harmless) < 0.5, harmless
