"""Fits the detector of attacks on labelled lines; its threshold is chosen on others."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from heads.attacks import LONGEST_NGRAM, AttackDetector, Blend, Detector
from train.encoder_data import TriggerLine
from train.encoder_scores import balanced_threshold, best_threshold, detection
from train.sparse_rows import line_features

MIN_PRECISION = 0.95
"""Of the validation lines: to refuse a harmless line costs more than to let an attack through."""
MAX_FALSE_ALARMS = 0.02
"""Of ordinary remarks, which are most of what is said."""
RECALL_GOAL = 0.90
"""Beside MIN_PRECISION, where an encoder has its word too: a threshold misses both by as little."""
_INVERSE_PENALTIES = (0.03, 0.1, 0.3, 1.0)


def fit_detector(
    train: Sequence[TriggerLine],
    validation: Sequence[TriggerLine],
    ordinary: Sequence[TriggerLine],
) -> Detector:
    """The penalty with the best recall on validation at its threshold.

    That is where precision is MIN_PRECISION, or where MAX_FALSE_ALARMS of the `ordinary` remarks
    are above it, if that is higher.
    """
    keys, weight, features = line_features([line.text for line in train], LONGEST_NGRAM)
    hostile = np.array([line.hostile for line in train])
    candidates = []
    for c in _INVERSE_PENALTIES:
        model = LogisticRegression(C=c, solver="liblinear", max_iter=2_000, random_state=0)
        model.fit(features, hostile)
        detector = Detector(
            keys=keys.astype("<u4").tobytes(),
            weights=(model.coef_[0] * weight).astype("<f2").tobytes(),
            bias=round(float(model.intercept_[0]), 4),
            threshold=0.5,
            training={"num_lines": len(train), "C": c},
        )
        candidates.append(_with_threshold(detector, validation, ordinary))
    return max(candidates, key=lambda found: found.evaluation["validation"]["recall"])


def fit_blend(
    detector: AttackDetector,
    hear: Callable[[str], float],
    validation: Sequence[TriggerLine],
    ordinary: Sequence[TriggerLine],
) -> tuple[Blend, dict[str, Any]]:
    """How a taught encoder's logits count beside the n-grams', and what that reaches.

    `hear` gives the encoder's. Both were fitted on other lines than these: there are three numbers
    and a threshold to find. Ordinary remarks only keep the threshold up.
    """
    logits = np.array([(hear(line.text), detector.logit(line.text)) for line in validation])
    truth = [line.hostile for line in validation]
    model = LogisticRegression(C=1e3).fit(logits, truth)
    weights = [round(float(weight), 4) for weight in model.coef_[0]]
    blend = Blend(
        ngrams=detector.id,
        encoder_weight=weights[0],
        ngram_weight=weights[1],
        bias=round(float(model.intercept_[0]), 4),
        threshold=0.5,
    )
    scores = [blend.score(*each) for each in logits.tolist()]
    heard = [blend.score(hear(line.text), detector.logit(line.text)) for line in ordinary]
    threshold = balanced_threshold(scores, truth, MIN_PRECISION, RECALL_GOAL)[0]
    threshold, reached = _kept_from_play(threshold, scores, truth, heard)
    return msgspec.structs.replace(blend, threshold=threshold), reached


def _with_threshold(
    detector: Detector, validation: Sequence[TriggerLine], ordinary: Sequence[TriggerLine]
) -> Detector:
    score = AttackDetector(detector).score
    scores, truth = [score(line.text) for line in validation], [line.hostile for line in validation]
    threshold = best_threshold(scores, truth, MIN_PRECISION)[0]
    heard = [score(line.text) for line in ordinary]
    threshold, reached = _kept_from_play(round(threshold, 4), scores, truth, heard)
    evaluation = {"validation": reached}
    return msgspec.structs.replace(detector, threshold=threshold, evaluation=evaluation)


def _kept_from_play(
    threshold: float, scores: Sequence[float], truth: Sequence[bool], ordinary: Sequence[float]
) -> tuple[float, dict[str, Any]]:
    """The threshold, raised as MAX_FALSE_ALARMS asks, and what it reaches."""
    if ordinary:
        most = float(np.quantile(ordinary, 1 - MAX_FALSE_ALARMS, method="higher"))
        above = min(1.0, round(most + 1e-4, 4))  # they fire at the threshold, too
        threshold = max(threshold, above)
    fired = detection([score >= threshold for score in scores], truth)
    return threshold, {
        "num_lines": len(scores),
        "precision": round(fired.precision, 4),
        "recall": round(fired.recall, 4),
        "ordinary": {
            "num_lines": len(ordinary),
            "fired": sum(score >= threshold for score in ordinary),
        },
    }
