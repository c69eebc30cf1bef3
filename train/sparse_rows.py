"""Found features as a matrix to fit on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from heads.ngrams import Rows


def sparse_rows(
    found: Sequence[tuple[Rows, npt.NDArray[np.floating[Any]]]], width: int
) -> csr_matrix:
    """[len(found), width]: a row for each pair of columns and values."""
    starts = np.cumsum([0, *(len(columns) for columns, _ in found)])
    columns = np.concatenate([columns for columns, _ in found])
    values = np.concatenate([values for _, values in found]).astype(float)
    return csr_matrix((values, columns, starts), shape=(len(found), width))
