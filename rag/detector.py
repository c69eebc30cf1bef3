"""Tells attacks (threats, extortion, death wishes, vicious abuse) from what only looks like them.

A logistic regression on character n-grams: it needs no encoder, so it is the same under each, and
it takes a tenth of a millisecond. `persona triggers fit` makes `attacks.json`.
"""

from functools import cache
from math import exp
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heads.ngrams import Hashes, HashIndex, Weights, count_ngrams, words_of
from heads.spec import Probability

FORMAT = 2
DETECTOR = Path(__file__).with_name("attacks.json")
LONGEST_NGRAM = 6


class Detector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`attacks.json`: hashes of the known n-grams, sorted uint32, and their weights, float16.

    Both little-endian.
    """

    format: int = FORMAT
    keys: bytes
    weights: bytes
    bias: float
    threshold: Probability
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class AttackDetector:
    """Scores how likely a line is an attack on whoever hears it."""

    def __init__(self, detector: Detector) -> None:
        self.threshold = detector.threshold
        self._index = HashIndex(np.frombuffer(detector.keys, "<u4").astype(np.uint32))
        self._weights = np.frombuffer(detector.weights, "<f2").astype(float)
        self._bias = detector.bias

    def score(self, text: str) -> float:
        """A probability, of the text as it is written."""
        rows, shares = self._index.at_unit_length(*line_ngrams(text))
        logit = self._bias + float(self._weights[rows] @ shares)
        return 1 / (1 + exp(-max(-60.0, min(60.0, logit))))


@cache
def default_detector() -> AttackDetector:
    """The detector that is shipped."""
    return AttackDetector(msgspec.json.decode(DETECTOR.read_bytes(), type=Detector))


def line_ngrams(text: str) -> tuple[Hashes, Weights]:
    """The n-grams of a line as a whole, white space single, and 1 + log(count) of each."""
    return count_ngrams([f" {' '.join(words_of(text))} "], LONGEST_NGRAM)
