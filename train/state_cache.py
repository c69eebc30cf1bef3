"""State vectors on disk, so that heads can be fitted again without reading the dataset again."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.bundle import file_sha256
from rag.loader import LORE_SUFFIXES
from runtime.prompt import FORMAT
from train.dataset import TurnLabel
from train.states import Form, LabelledState

_COLUMNS = ("conversations", "turns", "forms", "vectors", "nll", "num_answered")


def states_key(models: Iterable[Path], world: Path, data: Iterable[Path], *settings: object) -> str:
    """Hex SHA-256 of all that the vectors depend on, save the machine: files and settings."""
    files = [*models, *sorted(path for path in world.rglob("*") if _is_document(path)), *data]
    parts = [str(FORMAT), *map(repr, settings), *(file_sha256(path) for path in files)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _is_document(path: Path) -> bool:
    return path.is_file() and path.suffix in (".json", *LORE_SUFFIXES)


def save_states(path: Path, key: str, states: Sequence[LabelledState]) -> None:
    """Write `states` as NPZ, beside `path` first."""
    beside = path.with_name(f".{path.name}.tmp")
    with beside.open("wb") as file:
        np.savez(
            file,
            key=np.array(key),
            vectors=np.stack([state.vector for state in states]),
            forms=np.array([state.form.value for state in states]),
            conversations=np.array([state.label.conversation for state in states]),
            turns=np.array([state.label.turn for state in states]),
            nll=np.array([np.nan if state.nll is None else state.nll for state in states]),
            num_answered=np.array([state.num_answered for state in states]),
        )
    beside.replace(path)


def load_states(path: Path, key: str, turns: Iterable[TurnLabel]) -> list[LabelledState] | None:
    """The states in `path` with the labels of `turns`; None if it holds none of this `key`.

    A file that cannot be read counts as none: the states are read from the model again.
    """
    labels = {(turn.conversation, turn.turn): turn for turn in turns}
    try:
        with path.open("rb") as file, np.load(file) as saved:
            if str(saved["key"]) != key:
                return None
            return _labelled(saved, labels)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def kept_states(
    path: Path,
    key: str,
    turns: Sequence[TurnLabel],
    read: Callable[[], list[LabelledState]],
) -> list[LabelledState]:
    """The states in `path` if they are of this `key`; else what `read` gives, kept there."""
    states = load_states(path, key, turns)
    if states is None:
        states = read()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_states(path, key, states)
    return states


def _labelled(
    saved: Mapping[str, npt.NDArray[Any]], labels: dict[tuple[str, int], TurnLabel]
) -> list[LabelledState]:
    rows = zip(*(saved[name] for name in _COLUMNS), strict=True)
    return [
        LabelledState(
            labels[str(conversation), int(turn)],
            Form(str(form)),
            vector,
            None if np.isnan(nll) else float(nll),
            int(num_answered),
        )
        for conversation, turn, form, vector, nll, num_answered in rows
    ]
