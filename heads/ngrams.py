"""Character n-grams known by their hash: what linear models on a line's own letters look at.

No vocabulary is kept, only sorted hashes (Weinberger et al. 2009, arXiv:0902.2206), and what is not
among them counts for nothing: to share buckets with it cost a model of attacks a sixth of its
recall.
"""

import unicodedata
import zlib
from collections.abc import Iterable
from typing import Self

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint32]
Weights = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

LONGEST_TEXT = 2_000
"""Characters of a text that are looked at: as many as `/ask` takes."""


def words_of(text: str) -> list[str]:
    """The words of a text; neither width nor case nor white space makes a difference."""
    plain = unicodedata.normalize("NFKC", text[:LONGEST_TEXT])  # which may be many times as long
    return plain[:LONGEST_TEXT].casefold().split()


def count_ngrams(pieces: Iterable[str], longest: int) -> tuple[Hashes, Weights]:
    """CRC-32 of each distinct n-gram of up to `longest` characters, and 1 + log(count).

    N-grams lie inside one of `pieces`.
    """
    hashes: list[int] = []
    for piece in pieces:
        letters = [char.encode("utf-8", "surrogatepass") for char in piece]
        grown = [0] * len(letters)
        for last in range(longest):
            grown = [*map(zlib.crc32, letters[last:], grown)]  # each longer by a letter
            hashes += grown
    found, counts = np.unique(np.array(hashes, np.uint32), return_counts=True)
    return found, 1 + np.log(counts)


def ngrams_of_line(text: str, longest: int) -> tuple[Hashes, Weights]:
    """The n-grams of a line as a whole, white space single, and 1 + log(count) of each."""
    return count_ngrams([f" {' '.join(words_of(text))} "], longest)


class HashIndex:
    """Knows the features in `keys` [n], sorted hashes, by their row."""

    def __init__(self, keys: Hashes) -> None:
        self.keys = keys

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """Of uint32, little-endian. Raises ValueError unless each is greater than the last."""
        keys = np.frombuffer(raw, "<u4").astype(np.uint32)
        if (keys[1:] <= keys[:-1]).any():
            raise ValueError(f"{len(keys)} hashes, not in order")
        return cls(keys)

    def known(self, hashes: Hashes, weights: Weights) -> tuple[Rows, Weights]:
        """Rows of those of `hashes` [k] that are known, and their weights."""
        if not len(self.keys):
            return np.zeros(0, np.int64), np.zeros(0)
        rows = np.searchsorted(self.keys, hashes)
        rows[rows == len(self.keys)] = 0
        is_known = self.keys[rows] == hashes
        return rows[is_known], weights[is_known]

    def at_unit_length(self, hashes: Hashes, weights: Weights) -> tuple[Rows, Weights]:
        """The same, the known weights' squares adding up to 1 (if there are any)."""
        rows, known = self.known(hashes, weights)
        return rows, known / (np.sqrt(known @ known) or 1.0)


def weights_of(index: HashIndex, raw: bytes, num_columns: int) -> npt.NDArray[np.float32]:
    """[n_keys, num_columns] of float16, little-endian.

    Raises ValueError unless they are as many, and finite.
    """
    weights = np.frombuffer(raw, "<f2").astype(np.float32)
    if len(weights) != len(index.keys) * num_columns:
        raise ValueError(
            f"{len(weights)} weights, not {num_columns} for each of {len(index.keys)} keys"
        )
    if not np.isfinite(weights).all():
        raise ValueError("weights that are not finite")
    return weights.reshape(-1, num_columns)
