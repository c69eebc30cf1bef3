"""State vectors on disk, so that heads can be fitted again without reading the dataset again."""

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from heads.bundle import file_sha256
from runtime.llama_library import llama_version
from train.dataset import TurnLabel
from train.states import Conditions, Form, LabelledState, Reading

_COLUMNS = ("conversations", "turns", "forms", "vectors", "nll", "num_answered")


def states_key(models: Iterable[Path], wanted: Iterable[Reading], conditions: Conditions) -> str:
    """Hex SHA-256 of all that the vectors depend on, save the machine.

    That is the models' files, the tokens that are read, the conditions but for the threads, and
    llama.cpp's build.
    """
    conditions_read = conditions.settings, conditions.with_nll, llama_version()
    digest = hashlib.sha256(repr(conditions_read).encode())
    for path in models:
        digest.update(file_sha256(path).encode())
    for reading in wanted:
        transcript = reading.transcript
        turns = [(turn.asked, turn.decided, turn.answered) for turn in transcript.turns]
        digest.update(repr((reading.form, transcript.opening, transcript.told, turns)).encode())
    return digest.hexdigest()


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
    path: Path | None,
    models: Iterable[Path],
    wanted: Sequence[Reading],
    conditions: Conditions,
    read: Callable[[], list[LabelledState]],
) -> list[LabelledState]:
    """The states in `path` if `models` read `wanted` like this; else what `read` gives, kept there.

    Without a path nothing is kept.
    """
    if path is None:
        return read()
    key = states_key(models, wanted, conditions)
    turns = (turn.label for reading in wanted for turn in reading.transcript.turns)
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
