"""Tells whether a line grants or refuses: a small model may say the opposite of what the game does.

Two logistic regressions on character n-grams, fitted on the labelled responses of a bundle's
dataset: whether a response goes with raised flags, and whether it withholds one. A tenth of a
millisecond a sentence; no encoder is needed.
"""

from pathlib import Path
from typing import Any

import msgspec

from heads.attacks import sigmoid
from heads.bundle import Bundle
from heads.fitted import read_fitted
from heads.ngrams import HashIndex, ngrams_of_line, weights_of
from heads.spec import Probability

FORMAT = 1
LONGEST_NGRAM = 4
MAX_ATTEMPTS = 3
"""At a line that may leave; what the last one says is not held against the decision any more."""
FIT = "run `persona heads agreement`, and build the bundle again"


class AgreementFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`agreement.json`: hashes of the known n-grams, sorted uint32 [n]; weights, float16 [n, 2].

    Both little-endian. Columns, biases and thresholds are those of granting, then of refusing.
    """

    format: int = FORMAT
    keys: bytes
    weights: bytes
    biases: tuple[float, float]
    thresholds: tuple[Probability, Probability]
    training: dict[str, Any] = {}


class Agreement:
    """Holds lines against decisions.

    Raises ValueError if the parts of `file` do not fit each other.
    """

    def __init__(self, file: AgreementFile) -> None:
        self._index = HashIndex.from_bytes(file.keys)
        self._weights = weights_of(self._index, file.weights, 2)
        self._biases, self._thresholds = file.biases, file.thresholds

    def scores(self, text: str) -> tuple[float, float]:
        """How likely a line, or the first sentences of one, grants something, and refuses."""
        rows, shares = self._index.at_unit_length(*ngrams_of_line(text, LONGEST_NGRAM))
        grants, refuses = (shares @ self._weights[rows] + self._biases).tolist()
        return sigmoid(grants), sigmoid(refuses)

    def contradiction(self, text: str, *, is_raised: bool) -> str | None:
        """What a line seems to do that the decision does not, with its score; None if it agrees.

        It refuses where a flag is raised, or grants where none is.
        """
        grants, refuses = self.scores(text)
        score = refuses if is_raised else grants
        if score < self._thresholds[is_raised]:
            return None
        return f"{'refuses' if is_raised else 'grants'} ({score:.2f})"


def open_agreement(bundle: Bundle) -> Agreement | None:
    """That of a bundle, if it has one. Raises BundleError."""
    return read_agreement(bundle.agreement) if bundle.agreement else None


def read_agreement(path: Path) -> Agreement:
    """Raises BundleError."""
    return read_fitted(path, AgreementFile, FORMAT, Agreement, FIT)
