import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.attacks import (
    AttackDetector,
    Detector,
    default_detector,
    line_ngrams,
    read_detector,
)
from heads.bundle import BundleError
from heads.ngrams import LONGEST_TEXT, Hashes
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


def test_a_line_is_read_as_far_as_a_text_is_looked_at() -> None:
    attack, small_talk = "I will cut your throat, old man. ", "What a lovely evening it is. "
    text = (small_talk * 80)[: LONGEST_TEXT - len(attack)] + attack
    scorer = default_detector()
    assert scorer.score(text) > 0.5, "to its very end"
    assert scorer.score(small_talk * 80 + attack) < 0.5


def test_what_lies_beyond_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[str] = []
    judge = AttackDetector._logit_of

    def noted(scorer: AttackDetector, part: str) -> float:
        judged.append(part)
        return judge(scorer, part)

    monkeypatch.setattr(AttackDetector, "_logit_of", noted)
    numbered = " ".join(f"number {n}" for n in range(4_000))
    scorer = AttackDetector(detector(line_ngrams("plea")[0]))
    assert scorer.score(numbered) == scorer.score(numbered[:LONGEST_TEXT])
    assert max(map(len, judged)) <= 256
    assert len(judged) <= 2 * 2 * (LONGEST_TEXT // 192 + 1)


@pytest.mark.parametrize(
    ("changed", "found"),
    [({"format": 1}, "found format 1"), ({"format": 3, "scale": 2}, "unknown field `scale`")],
)
def test_a_detector_of_another_format_is_refused(
    tmp_path: Path, changed: dict[str, int], found: str
) -> None:
    path = tmp_path / "attacks.json"
    written = msgspec.to_builtins(detector(line_ngrams("plea")[0]))
    path.write_bytes(msgspec.json.encode(written))
    assert read_detector(path).threshold == 0.5
    path.write_bytes(msgspec.json.encode(written | changed))
    with pytest.raises(BundleError, match=f"format 2, .*{found}.*persona triggers fit"):
        read_detector(path)


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
