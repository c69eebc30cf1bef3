"""Features that are worth knowing, and a matrix of them to fit on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags

from heads.ngrams import Hashes, HashIndex, Rows, ngrams_of_line

MIN_ROWS = 3
"""A feature of fewer rows is not known: it would tell more of them than of others."""


def known_keys(found: Sequence[Hashes]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hashes that MIN_ROWS of `found` hold at least, sorted, and how many do.

    The hashes of each are distinct.
    """
    keys, counts = np.unique(np.concatenate(found), return_counts=True)
    return keys[counts >= MIN_ROWS], counts[counts >= MIN_ROWS]


def rarity(shares: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Inverse document frequency of what is in these shares of the rows: 1 where it is in all."""
    return 1 - np.log(np.asarray(shares, np.float64))


def line_features(
    texts: Sequence[str], longest: int
) -> tuple[Hashes, npt.NDArray[np.float64], csr_matrix]:
    """Keys [n] of the n-grams of `texts` that are known, their rarities, and a row for each text.

    Rows are at unit length before the rarities weigh them.
    """
    counted = [ngrams_of_line(text, longest) for text in texts]
    keys, num_texts = known_keys([hashes for hashes, _ in counted])
    weight = rarity((1 + num_texts) / (1 + len(texts)))
    index = HashIndex(keys)
    rows = sparse_rows([index.at_unit_length(*each) for each in counted], len(keys))
    return keys, weight, rows @ diags(weight)


def sparse_rows(
    found: Sequence[tuple[Rows, npt.NDArray[np.floating[Any]]]], width: int
) -> csr_matrix:
    """[len(found), width]: a row for each pair of columns and values."""
    starts = np.cumsum([0, *(len(columns) for columns, _ in found)])
    columns = np.concatenate([columns for columns, _ in found])
    values = np.concatenate([values for _, values in found]).astype(float)
    return csr_matrix((values, columns, starts), shape=(len(found), width))
