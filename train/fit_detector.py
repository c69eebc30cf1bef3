"""Fits the detector of attacks on labelled lines; its threshold is chosen on others."""

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.sparse import diags
from sklearn.linear_model import LogisticRegression

from heads.ngrams import HashIndex
from rag.detector import AttackDetector, Detector, line_ngrams
from train.encoder_data import TriggerLine
from train.encoder_scores import best_threshold
from train.sparse_rows import sparse_rows

MIN_PRECISION = 0.95
"""Of the validation lines: to refuse a harmless line costs more than to let an attack through."""
MIN_LINES = 3
"""An n-gram of fewer training lines is not known."""
_PENALTIES = (0.03, 0.1, 0.3, 1.0)


def fit_detector(train: Sequence[TriggerLine], validation: Sequence[TriggerLine]) -> Detector:
    """The penalty with the best recall on validation at MIN_PRECISION, and that threshold."""
    counted = [line_ngrams(line.text) for line in train]
    found, counts = np.unique(np.concatenate([found for found, _ in counted]), return_counts=True)
    keys, num_lines = found[counts >= MIN_LINES], counts[counts >= MIN_LINES]
    rarity = 1 + np.log((1 + len(train)) / (1 + num_lines))
    index = HashIndex(keys)
    features = sparse_rows([index.at_unit_length(*each) for each in counted], len(keys))
    features, hostile = features @ diags(rarity), np.array([line.hostile for line in train])
    truth = [line.hostile for line in validation]
    best: tuple[float, Detector] | None = None
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, solver="liblinear", max_iter=2_000, random_state=0)
        model.fit(features, hostile)
        weights = (model.coef_[0] * rarity).astype("<f2").tobytes()
        detector = Detector(
            keys=keys.astype("<u4").tobytes(),
            weights=weights,
            bias=round(float(model.intercept_[0]), 4),
            threshold=0.5,
        )
        scorer = AttackDetector(detector)
        scores = [scorer.score(line.text) for line in validation]
        threshold, precision, recall = best_threshold(scores, truth, MIN_PRECISION)
        if best is None or recall > best[0]:
            reached = {
                "num_lines": len(truth),
                "precision": round(precision, 4),
                "recall": round(recall, 4),
            }
            best = (
                recall,
                msgspec.structs.replace(
                    detector,
                    threshold=round(threshold, 4),
                    training={"num_lines": len(train), "C": penalty},
                    evaluation={"validation": reached},
                ),
            )
    assert best is not None, "there are penalties"
    return best[1]
