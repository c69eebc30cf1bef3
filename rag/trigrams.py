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

Rows = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint32]
Halves = npt.NDArray[np.float16]
Weights = npt.NDArray[np.float32]

_BITS = 22
_CODES = 1 << _BITS
"""Four million trigrams can be told apart; the languages of a world have tens of thousands."""
MOST_DOCUMENTS = 1 << (32 - _BITS)
"""That can be asked about at once."""
_FACTORS = tuple(np.uint32(factor) for factor in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))
"""Odd multipliers, one for each letter."""
_SPACE = ord(" ")
_MOST = 256
"""Trigrams of a line that are looked for, spread over all of it; a usual line has thirty."""
_NOTHING = np.float16(0)
_SATURATION, _LENGTH_SHARE = 1.2, 0.75
"""BM25's k1 and b, as they usually are."""


@dataclass(frozen=True, slots=True)
class TrigramIndex:
    """For each document its trigrams' `codes`, sorted, and their `weights`: the BM25 of each.

    Document d has those from `starts[d]` to `starts[d + 1]`: int64 [documents + 1].
    """

    starts: Rows
    codes: Codes
    weights: Halves

    recipe: ClassVar[str] = "1"
    """Of codes and weights: another one makes another index of the same passages."""

    @classmethod
    def of(cls, documents: Sequence[Iterable[str]]) -> Self:
        """The index of documents, each known by its passages."""
        lines = [[_padded(text) for text in texts] for texts in documents]
        sizes = [sum(map(len, texts)) for texts in lines]
        codes, is_inside = _codes("".join(line for texts in lines for line in texts))
        place = np.repeat(np.arange(len(lines), dtype=np.uint64), sizes)[: len(codes)]
        found = (place[is_inside] << np.uint64(_BITS)) | codes[is_inside]
        keys, counts = np.unique(found, return_counts=True)
        document_of = (keys >> np.uint64(_BITS)).astype(np.int64)
        kept = (keys & np.uint64(_CODES - 1)).astype(np.uint32)
        starts = np.searchsorted(document_of, np.arange(len(lines) + 1))
        return cls(starts, kept, _bm25(document_of, kept, counts, len(lines)))

    def scores(self, text: str, documents: Sequence[int]) -> Weights:
        """What the trigrams of `text` weigh on average in each of `documents` [k].

        At most MOST_DOCUMENTS. Of a long text some stand for all.
        """
        codes, is_inside = _codes(_padded(text))
        wanted = codes[is_inside]
        wanted = np.sort(wanted[:: 1 + len(wanted) // _MOST])  # in order they are found sooner
        rows = np.array(documents, np.int64)
        parts = [*map(slice, self.starts[rows].tolist(), self.starts[rows + 1].tolist())]
        sizes = [part.stop - part.start for part in parts]
        if not len(wanted) or not any(sizes):
            return np.zeros(len(documents), np.float32)
        # brought together first: to search in all of a large world is to wait for its memory
        known = np.concatenate([self.codes[part] for part in parts])
        weights = np.concatenate([self.weights[part] for part in parts])
        number = np.arange(len(documents), dtype=np.uint32) << np.uint32(_BITS)
        known |= np.repeat(number, sizes)
        keys = number[:, None] | wanted
        places = np.searchsorted(known, keys)
        places[places == len(known)] = 0
        is_found = known[places] == keys
        found = np.where(is_found, weights[places], _NOTHING)
        means: Weights = found.mean(axis=1, dtype=np.float32)
        return means


def _padded(text: str) -> str:
    """The words of a text, each with a space on both sides of it."""
    return f" {' '.join(words_of(text))} "


def _codes(text: str) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """A code for each trigram of `text`, and whether it lies inside a word and its borders."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    first, middle, last = letters[:-2], letters[1:-1], letters[2:]
    mixed = first * _FACTORS[0] + middle * _FACTORS[1] + last * _FACTORS[2]
    return (mixed ^ mixed >> np.uint32(15)) & np.uint32(_CODES - 1), middle != _SPACE


def _bm25(document_of: Rows, codes: Codes, counts: Rows, num_documents: int) -> Halves:
    """The weight of each trigram in its document, which has it `counts` times."""
    lengths = np.bincount(document_of, counts, num_documents)
    having = np.bincount(codes)[codes]
    rarity = np.log1p((num_documents - having + 0.5) / (having + 0.5))
    usual = lengths.mean() if num_documents else 1.0
    long = 1 - _LENGTH_SHARE + _LENGTH_SHARE * lengths[document_of] / (usual or 1.0)
    weights = rarity * counts * (_SATURATION + 1) / (counts + _SATURATION * long)
    return weights.astype(np.float16)
