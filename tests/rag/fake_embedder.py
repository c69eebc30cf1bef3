"""Encoders for tests: no model, the same vectors every time, and a list of what was embedded."""

from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import numpy as np

from rag.embedder import Embedder, Vectors

_LONGEST_GRAM = 3


class GramEmbedder(Embedder):
    """Texts that share letters are near: unit vectors of hashed character n-grams."""

    def __init__(self, name: str = "grams", dim: int = 512) -> None:
        self.id, self.dim = name, dim
        self.embedded: list[str] = []

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for gram in _grams(text):
                row[crc32(gram.encode()) % self.dim] += 1
        return _unit(vectors)


class TableEmbedder(Embedder):
    """Texts mean what a table says: a direction for each, in as many dimensions as it has."""

    def __init__(self, table: Mapping[str, Sequence[float]], name: str = "table") -> None:
        self._table = table
        self.id, self.dim = name, len(next(iter(table.values())))

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = [self._table[text] for text in texts]
        return _unit(np.array(rows, np.float32).reshape(len(rows), self.dim))


def random_table(texts: Iterable[str], dim: int = 32, seed: int = 0) -> TableEmbedder:
    """Texts that mean nothing to each other."""
    rng = np.random.default_rng(seed)
    return TableEmbedder({text: rng.standard_normal(dim).tolist() for text in texts})


def at_cosine(cosine: float) -> tuple[float, float]:
    """A direction of the plane at a cosine to (1, 0)."""
    return cosine, float(np.sqrt(1 - cosine**2))


def _grams(text: str) -> Iterable[str]:
    padded = f" {text} "
    for size in range(1, _LONGEST_GRAM + 1):
        yield from (padded[at : at + size] for at in range(len(padded) - size + 1))


def _unit(vectors: Vectors) -> Vectors:
    normed: Vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return normed
