"""Which documents share a line's letters: what finds the names that an encoder makes too little of.

BM25 (Robertson & Zaragoza 2009) over character trigrams inside words, so that inflected Korean is
found too. A document is all its passages together, the questions about it included (doc2query,
Nogueira et al. 2019, arXiv:1904.08375).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from heads.ngrams import words_of

Keys = npt.NDArray[np.uint64]
Codes = npt.NDArray[np.uint32]
Weights = npt.NDArray[np.float32]

_BITS = 22
"""Of a trigram's code: four million, for the tens of thousands that a world's languages have."""
_FACTORS = tuple(np.uint32(factor) for factor in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))
"""Odd multipliers, one for each letter."""
_SPACE = ord(" ")
_MOST = 128
"""Distinct trigrams of a line that are looked for; an ordinary one has thirty."""
_SATURATION, _LENGTH_SHARE = 1.2, 0.75
"""BM25's k1 and b, as they usually are."""


@dataclass(frozen=True, slots=True)
class TrigramIndex:
    """`keys` [n], sorted: a document's number, then a trigram's code; `weights` [n]: its BM25."""

    keys: Keys
    weights: Weights

    recipe: ClassVar[str] = "1"
    """Of codes and weights: another one makes another index of the same passages."""

    @classmethod
    def of(cls, documents: Sequence[Iterable[str]]) -> Self:
        """The index of documents, each known by its passages."""
        lines = [[_padded(text) for text in texts] for texts in documents]
        sizes = [sum(map(len, texts)) for texts in lines]
        codes, is_inside = _codes("".join(line for texts in lines for line in texts))
        document_of = np.repeat(np.arange(len(lines), dtype=np.uint64), sizes)[: len(codes)]
        found = (document_of[is_inside] << np.uint64(_BITS)) | codes[is_inside]
        keys, counts = np.unique(found, return_counts=True)
        return cls(keys, _bm25(keys, counts, len(lines)))

    def scores(self, text: str, documents: npt.NDArray[np.int64]) -> Weights:
        """What the distinct trigrams of `text` weigh on average in each of `documents` [k]."""
        codes, is_inside = _codes(_padded(text))
        wanted = np.unique(codes[is_inside])[:_MOST]  # in the order of their codes: any of them
        if not len(wanted) or not len(self.keys):
            return np.zeros(len(documents), np.float32)
        keys = (documents.astype(np.uint64)[:, None] << np.uint64(_BITS)) | wanted
        rows = np.searchsorted(self.keys, keys)
        rows[rows == len(self.keys)] = 0
        found = np.where(self.keys[rows] == keys, self.weights[rows], np.float32(0))
        means: Weights = found.mean(axis=1)
        return means


def _padded(text: str) -> str:
    """The words of a text, each with a space on both sides of it."""
    return f" {' '.join(words_of(text))} "


def _codes(text: str) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """A code for each trigram of `text`, and whether it lies inside a word and its borders."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    first, middle, last = letters[:-2], letters[1:-1], letters[2:]
    mixed = first * _FACTORS[0] + middle * _FACTORS[1] + last * _FACTORS[2]
    return (mixed ^ mixed >> np.uint32(15)) & np.uint32((1 << _BITS) - 1), middle != _SPACE


def _bm25(keys: Keys, counts: npt.NDArray[np.int64], num_documents: int) -> Weights:
    """The weight of each trigram in its document, which has it `counts` times."""
    codes = (keys & np.uint64((1 << _BITS) - 1)).astype(np.int64)
    document_of = (keys >> np.uint64(_BITS)).astype(np.int64)
    lengths = np.bincount(document_of, counts, num_documents)
    having = np.bincount(codes)[codes]
    rarity = np.log1p((num_documents - having + 0.5) / (having + 0.5))
    usual = lengths.mean() if num_documents else 1.0
    long = 1 - _LENGTH_SHARE + _LENGTH_SHARE * lengths[document_of] / (usual or 1.0)
    weights: Weights = (rarity * counts * (_SATURATION + 1) / (counts + _SATURATION * long)).astype(
        np.float32
    )
    return weights
