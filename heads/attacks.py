"""Tells attacks (threats, extortion, death wishes, vicious abuse) from what only looks like them.

A logistic regression on character n-grams: it needs no encoder, so it is the same under each, and
it takes a tenth of a millisecond. `persona triggers fit` makes `attacks.json`. A sentence encoder
that was taught the same (`persona triggers teach`) reads what no n-gram tells; a `Blend` weighs the
two.
"""

import zlib
from collections.abc import Iterator
from functools import cache, lru_cache
from math import exp
from pathlib import Path
from typing import Any, Self

import msgspec

from heads.disguises import READINGS, readings
from heads.fitted import read_fitted
from heads.ngrams import LONGEST_TEXT, Hashes, HashIndex, Weights, ngrams_of_line, weights_of
from heads.spec import Probability

FORMAT = 2
DETECTOR = Path(__file__).with_name("attacks.json")
FIT = "take the one of this version, or run `persona triggers fit`"
LONGEST_NGRAM = 6
_WINDOW, _OVERLAP = 256, 64
"""Characters that are judged at once, as many as a line that was learnt from has at most: in a
longer text a threat would be lost among all that is harmless about it. The worst window counts.
"""
_REMEMBERED = 64
"""Lines: a turn asks for its own more than once."""


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


class Blend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a taught encoder's logit counts beside that of the n-grams: a logistic regression."""

    ngrams: str
    """Id of the n-gram detector that it was fitted with."""
    encoder_weight: float
    ngram_weight: float
    bias: float
    threshold: Probability

    @classmethod
    def of_encoder_alone(cls, ngrams: str) -> Self:
        """Before it is weighed: what the encoder says counts, and the n-grams for nothing."""
        return cls(ngrams=ngrams, encoder_weight=1, ngram_weight=0, bias=0, threshold=0.5)

    def was_fitted_with(self, detector: "AttackDetector") -> bool:
        """Whether this is that detector: another's logits mean something else."""
        return self.ngrams == detector.id

    def score(self, encoder_logit: float, ngram_logit: float) -> float:
        """A probability."""
        both = self.encoder_weight * encoder_logit + self.ngram_weight * ngram_logit
        return sigmoid(both + self.bias)


class AttackDetector:
    """Scores how likely a line is an attack on whoever hears it.

    Raises ValueError if the parts of `detector` do not fit each other.
    """

    def __init__(self, detector: Detector) -> None:
        self.threshold = detector.threshold
        learnt = detector.keys + detector.weights + repr((detector.bias, READINGS)).encode()
        self.id = f"{zlib.crc32(learnt):08x}"
        """Of what its logits depend on: another one means something else by them."""
        self.logit = lru_cache(_REMEMBERED)(self._logit)
        self._index = HashIndex.from_bytes(detector.keys)
        self._weights = weights_of(self._index, detector.weights, 1)[:, 0]
        self._bias = detector.bias

    def score(self, text: str) -> float:
        """A probability, of the worst reading of the text."""
        return sigmoid(self.logit(text))

    def _logit(self, text: str) -> float:
        lines = readings(text[:LONGEST_TEXT])
        parts = dict.fromkeys(part for line in lines for part in _windows(line))
        return max(map(self._logit_of, parts))

    def _logit_of(self, text: str) -> float:
        rows, shares = self._index.at_unit_length(*line_ngrams(text))
        return self._bias + float(self._weights[rows] @ shares)


def _windows(text: str) -> Iterator[str]:
    for start in range(0, max(1, len(text) - _OVERLAP), _WINDOW - _OVERLAP):
        yield text[start : start + _WINDOW]


def sigmoid(logit: float) -> float:
    """A probability, of any logit."""
    return 1 / (1 + exp(-max(-60.0, min(60.0, logit))))


@cache
def default_detector() -> AttackDetector:
    """The detector that is shipped. Raises BundleError."""
    return read_detector(DETECTOR)


def read_detector(path: Path) -> AttackDetector:
    """A detector that was fitted before. Raises BundleError."""
    return read_fitted(path, Detector, FORMAT, AttackDetector, FIT)


def line_ngrams(text: str) -> tuple[Hashes, Weights]:
    """The n-grams that the detector knows a line by."""
    return ngrams_of_line(text, LONGEST_NGRAM)
