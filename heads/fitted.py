"""Reads a model that was fitted before from JSON of one format."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from heads.bundle import BundleError


class Versioned(Protocol):
    """The content of a file that says which format it is of."""

    @property
    def format(self) -> int:
        """Counted up whenever the same content means something else."""


File = TypeVar("File", bound=Versioned)
Model = TypeVar("Model")


def read_fitted(
    path: Path, kind: type[File], version: int, make: Callable[[File], Model], remedy: str
) -> Model:
    """What `make` makes of a `kind` of format `version`.

    Raises BundleError, also where `make` raises ValueError.
    """
    expected = f"a file of format {version}"
    try:
        file = msgspec.json.decode(path.read_bytes(), type=kind)
        if file.format == version:
            return make(file)
    except (OSError, RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise BundleError(path, expected, str(error), remedy) from error
    raise BundleError(path, expected, f"format {file.format}", remedy)
