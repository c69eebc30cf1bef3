import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.detector import AttackDetector, Detector, default_detector, ngram_features
from train.encoder_data import TriggerLine
from train.fit_detector import fit_detector


@given(st.text(max_size=60))
def test_features_have_unit_length_whatever_the_text(text: str) -> None:
    values = ngram_features(text, 512)
    assert all(0 <= bucket < 512 and value > 0 for bucket, value in values.items())
    assert math.isclose(sum(value**2 for value in values.values()), 1, rel_tol=1e-9)
    assert 0 <= default_detector().score(text) <= 1


@pytest.mark.parametrize(
    ("text", "same"), [("Ｋｉｌｌ  him", "kill him"), ("  가\n나 ", "가 나"), ("ＡＢ", "ab")]
)
def test_width_case_and_white_space_make_no_difference(text: str, same: str) -> None:
    assert ngram_features(text) == ngram_features(same)


def test_the_score_is_that_of_a_logistic_regression() -> None:
    weights = np.linspace(-3, 3, 64).astype("<f2")
    detector = AttackDetector(Detector(weights=weights.tobytes(), bias=0.25, threshold=0.5))
    features = ngram_features("a plea", 64)
    logit = 0.25 + sum(float(weights[bucket]) * value for bucket, value in features.items())
    assert detector.score("a plea") == pytest.approx(1 / (1 + math.exp(-logit)))


def test_what_is_fitted_tells_the_lines_apart() -> None:
    def lines(numbers: range) -> list[TriggerLine]:
        return [
            TriggerLine(text=f"{word} number {n}", lang="en", hostile=is_bad, kind="threat")
            for n in numbers
            for word, is_bad in (("I will break you", True), ("I will bake you bread", False))
        ]

    detector = fit_detector(lines(range(20)), lines(range(20, 30)))
    assert detector.evaluation["validation"] == {"num_lines": 20, "precision": 1.0, "recall": 1.0}
    scorer = AttackDetector(detector)
    assert scorer.score("I will break you number 99") >= detector.threshold
    assert scorer.score("I will bake you bread number 99") < detector.threshold


def test_the_shipped_detector_knows_an_attack_from_what_looks_like_one() -> None:
    detector = default_detector()
    for attack in (
        "말 안 들으면 네 목을 따 버릴 거야.",
        "Pay me or I'll break your legs, old man.",
    ):
        assert detector.score(attack) > 0.5, attack
    for harmless in ("안녕하세요, 도와드릴까요?", "배고파 죽겠네.", "Thank you for the soup."):
        assert detector.score(harmless) < 0.5, harmless
