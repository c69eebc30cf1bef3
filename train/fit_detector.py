"""Fits the detector of attacks on labelled lines; its threshold is chosen on others."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from scipy.sparse import diags
from sklearn.linear_model import LogisticRegression

from heads.attacks import AttackDetector, Blend, Detector, line_ngrams
from heads.ngrams import HashIndex
from train.encoder_data import TriggerLine
from train.encoder_scores import balanced_threshold, best_threshold, detection
from train.sparse_rows import known_keys, rarity, sparse_rows

MIN_PRECISION = 0.95
"""Of the validation lines: to refuse a harmless line costs more than to let an attack through."""
MAX_FALSE_ALARMS = 0.02
"""Of ordinary remarks, which are most of what is said: as many as the n-grams alone raise."""
RECALL_GOAL = 0.90
"""Beside MIN_PRECISION, where an encoder has its word too: a threshold misses both by as little."""
_INVERSE_PENALTIES = (0.03, 0.1, 0.3, 1.0)


def fit_detector(train: Sequence[TriggerLine], validation: Sequence[TriggerLine]) -> Detector:
    """The penalty with the best recall on validation at MIN_PRECISION, and that threshold."""
    counted = [line_ngrams(line.text) for line in train]
    keys, num_lines = known_keys([hashes for hashes, _ in counted])
    weight = rarity((1 + num_lines) / (1 + len(train)))
    index = HashIndex(keys)
    features = sparse_rows([index.at_unit_length(*each) for each in counted], len(keys))
    features, hostile = features @ diags(weight), np.array([line.hostile for line in train])
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
        candidates.append(_with_threshold(detector, validation))
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
    scores = np.array([blend.score(*each) for each in logits.tolist()])
    heard = [blend.score(hear(line.text), detector.logit(line.text)) for line in ordinary]
    threshold = balanced_threshold(scores, truth, MIN_PRECISION, RECALL_GOAL)[0]
    if heard:
        threshold = max(threshold, float(np.quantile(heard, 1 - MAX_FALSE_ALARMS)))
    fired = detection((scores >= threshold).tolist(), truth)
    reached = _reached((threshold, fired.precision, fired.recall), len(truth))
    reached["ordinary"] = {
        "num_lines": len(ordinary),
        "fired": sum(score >= threshold for score in heard),
    }
    return msgspec.structs.replace(blend, threshold=threshold), reached


def _with_threshold(detector: Detector, validation: Sequence[TriggerLine]) -> Detector:
    scorer = AttackDetector(detector)
    scores = [scorer.score(line.text) for line in validation]
    found = best_threshold(scores, [line.hostile for line in validation], MIN_PRECISION)
    return msgspec.structs.replace(
        detector,
        threshold=round(found[0], 4),
        evaluation={"validation": _reached(found, len(scores))},
    )


def _reached(found: tuple[float, float, float], num_lines: int) -> dict[str, Any]:
    _, precision, recall = found
    return {
        "num_lines": num_lines,
        "precision": round(precision, 4),
        "recall": round(recall, 4),
    }
