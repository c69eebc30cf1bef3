"""Fits the detector of attacks on labelled lines; its threshold is chosen on others."""

from collections.abc import Sequence

import msgspec
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from rag.detector import NUM_BUCKETS, AttackDetector, Detector, ngram_features
from train.encoder_data import TriggerLine
from train.encoder_scores import best_threshold

MIN_PRECISION = 0.95
"""Of the validation lines: to refuse a harmless line costs more than to let an attack through."""
_PENALTIES = (1.0, 3.0, 10.0, 30.0)


def fit_detector(train: Sequence[TriggerLine], validation: Sequence[TriggerLine]) -> Detector:
    """The penalty with the best recall on validation at MIN_PRECISION, and that threshold."""
    features, hostile = _matrix(train), np.array([line.hostile for line in train])
    truth = [line.hostile for line in validation]
    best: tuple[float, Detector] | None = None
    for penalty in _PENALTIES:
        model = LogisticRegression(C=penalty, solver="liblinear", max_iter=2_000, random_state=0)
        model.fit(features, hostile)
        weights = model.coef_[0].astype("<f2").tobytes()
        detector = Detector(
            weights=weights, bias=round(float(model.intercept_[0]), 4), threshold=0.5
        )
        scorer = AttackDetector(detector)
        scores = [scorer.score(line.text) for line in validation]
        threshold, precision, recall = best_threshold(scores, truth, MIN_PRECISION)
        if best is None or recall > best[0]:
            found = {
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
                    evaluation={"validation": found},
                ),
            )
    assert best is not None, "there are penalties"
    return best[1]


def _matrix(lines: Sequence[TriggerLine]) -> csr_matrix:
    """The features of `lines`, [len(lines), NUM_BUCKETS]."""
    rows = [ngram_features(line.text) for line in lines]
    starts = np.cumsum([0, *(len(row) for row in rows)])
    columns = np.fromiter((bucket for row in rows for bucket in row), np.int64)
    values = np.fromiter((value for row in rows for value in row.values()), float)
    return csr_matrix((values, columns, starts), shape=(len(rows), NUM_BUCKETS))
