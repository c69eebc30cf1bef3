"""Tells attacks (threats, extortion, death wishes, vicious abuse) from what only looks like them.

A logistic regression on character n-grams, hashed into buckets: it needs no encoder, so it is the
same under each, and it takes a tenth of a millisecond. `persona triggers fit` makes `attacks.json`.
"""

import unicodedata
import zlib
from collections import Counter
from functools import cache
from itertools import accumulate
from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from heads.spec import Probability

FORMAT = 1
DETECTOR = Path(__file__).with_name("attacks.json")
LONGEST_NGRAM = 6
NUM_BUCKETS = 2**16


class Detector(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`attacks.json`: weights of the buckets as float16, little-endian."""

    format: int = FORMAT
    weights: bytes
    bias: float
    threshold: Probability
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class AttackDetector:
    """Scores how likely a line is an attack on whoever hears it."""

    def __init__(self, detector: Detector) -> None:
        self.threshold = detector.threshold
        self._weights = np.frombuffer(detector.weights, "<f2").astype(float).tolist()
        self._bias = detector.bias

    def score(self, text: str) -> float:
        """A probability, of the text as it is written."""
        features = ngram_features(text, len(self._weights))
        logit = self._bias + sum(self._weights[at] * value for at, value in features.items())
        return 1 / (1 + exp(-max(-60.0, min(60.0, logit))))


@cache
def default_detector() -> AttackDetector:
    """The detector that is shipped."""
    return AttackDetector(msgspec.json.decode(DETECTOR.read_bytes(), type=Detector))


def ngram_features(text: str, num_buckets: int = NUM_BUCKETS) -> dict[int, float]:
    """Buckets of the text's character n-grams, white space single: 1 + log(count), unit length."""
    padded = f" {' '.join(unicodedata.normalize('NFKC', text).casefold().split())} "
    letters = [char.encode("utf-8", "surrogatepass") for char in padded]
    ends = [0, *accumulate(map(len, letters))]
    raw, crc32 = b"".join(letters), zlib.crc32
    counts = Counter(
        crc32(raw[start:end]) % num_buckets
        for size in range(1, LONGEST_NGRAM + 1)
        for start, end in zip(ends, ends[size:], strict=False)
    )
    values = {bucket: 1 + log(count) for bucket, count in counts.items()}
    length = sqrt(sum(value * value for value in values.values())) or 1.0
    return {bucket: value / length for bucket, value in values.items()}
