"""What a run keeps: the trained parts (adapter, special-token rows, heads), and how to go on.

`best` and `last` of a run's folder are replaced as wholes, so a killed run leaves whole ones.
"""

import dataclasses
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors.torch import load_file, save_file

from export.folder_swap import locked, replaced
from export.merge_lora import CONFIG, PERSONA, SPECIAL_ROWS, WEIGHTS
from heads.bundle import file_sha256
from train.dataset import DatasetError
from train.heads_files import HEADS_WEIGHTS
from train.multi_head import MultiHeadModel

PROGRESS = "progress.json"
OPTIMISER = "optimiser.pt"
BEST, LAST, FINAL = "best", "last", "final"


@dataclass(slots=True)
class Progress:
    """How far a run has come; all that a resumed one must know besides the tensors."""

    step: int = 0
    epoch: int = 0
    step_of_epoch: int = 0
    best: float | None = None
    best_step: int = 0
    num_worse: int = 0
    """Evaluations since the best one."""
    num_logged: int = 0
    """Lines of the log that belong to the steps done."""
    is_done: bool = False
    start: dict[str, float] = field(default_factory=dict)
    """Validation figures before the first step."""


class TrainedPersona(msgspec.Struct, frozen=True):
    """`persona.json` beside an adapter: what its heads predict, and for which vocabulary."""

    vocabulary_sha256: str
    delta_names: list[str] = []
    flag_names: list[str] = []


def save_trained(
    folder: Path,
    model: MultiHeadModel,
    persona: TrainedPersona,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write adapter (as `dtype`), rows, heads and `persona.json` into `folder`."""
    import peft  # noqa: PLC0415 (slow to import)

    found = peft.get_peft_model_state_dict(model.lm, save_embedding_layers=False)
    factors = {name: value.to(dtype).contiguous() for name, value in found.items()}
    save_file(factors, folder / WEIGHTS)
    model.lm.peft_config["default"].save_pretrained(str(folder))
    rows = {name: value.detach().contiguous() for name, value in model.rows.rows.items()}
    save_file(rows, folder / SPECIAL_ROWS)
    save_file(model.heads.state_dict(), folder / HEADS_WEIGHTS)
    (folder / PERSONA).write_bytes(msgspec.json.encode(persona))


def write_final(run: Path) -> Path:
    """Write RUN/final: what `last` has trained so far, with its adapter in 16 bits as in `best`.

    Raises DatasetError if there is no `last`.
    """
    source, target = run / LAST, run / FINAL
    read_persona(source)
    with locked(target, lambda: None), replaced(target) as beside:
        factors = load_file(source / WEIGHTS)
        halved = {name: value.to(torch.float16) for name, value in factors.items()}
        save_file(halved, beside / WEIGHTS)
        for name in (CONFIG, SPECIAL_ROWS, HEADS_WEIGHTS, PERSONA):
            shutil.copyfile(source / name, beside / name)
    return target


def load_trained(folder: Path, model: MultiHeadModel) -> None:
    """Give `model` the parts in `folder`. Raises DatasetError if they do not fit it."""
    import peft  # noqa: PLC0415

    try:
        factors, rows = load_file(folder / WEIGHTS), load_file(folder / SPECIAL_ROWS)
        expected = peft.get_peft_model_state_dict(model.lm, save_embedding_layers=False)
        _check_names(WEIGHTS, factors, expected)
        _check_names(SPECIAL_ROWS, rows, model.rows.rows)
        peft.set_peft_model_state_dict(model.lm, factors)
        with torch.no_grad():
            for name, value in rows.items():
                model.rows.rows[name].copy_(value)
        model.heads.load_state_dict(load_file(folder / HEADS_WEIGHTS))
    except (OSError, KeyError, RuntimeError) as error:
        raise DatasetError(f"{folder}: not what this run trained: {error}") from error


def _check_names(file: str, found: Iterable[str], expected: Iterable[str]) -> None:
    if missing := sorted({*expected} - {*found}):
        raise KeyError(f"{file} lacks {missing[0]}")
    if more := sorted({*found} - {*expected}):
        raise KeyError(f"{file} has {more[0]}, which the model lacks")


def read_persona(folder: Path) -> TrainedPersona:
    """`persona.json` of a trained folder. Raises DatasetError."""
    try:
        return msgspec.json.decode((folder / PERSONA).read_bytes(), type=TrainedPersona)
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{folder}: no trained adapter: {error}") from error


def trained_sha256(folder: Path) -> str:
    """Hex SHA-256 of all trained parts in `folder`. Raises DatasetError if it has none."""
    try:
        parts = [file_sha256(folder / name) for name in (WEIGHTS, SPECIAL_ROWS, HEADS_WEIGHTS)]
    except OSError as error:
        raise DatasetError(f"{folder}: no trained adapter: {error}") from error
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The kept states of a run in `folder`."""

    folder: Path
    persona: TrainedPersona
    start: Path | None = None
    """Trained parts that the run begins with."""

    def load_start(self, model: MultiHeadModel) -> bool:
        """Give `model` what the run begins with, if that was trained before; whether it was.

        Raises DatasetError if it predicts something else, or does not fit.
        """
        if self.start is None:
            return False
        if (found := read_persona(self.start)) != self.persona:
            raise DatasetError(
                f"{self.start} was trained for {found.delta_names} and {found.flag_names} in "
                f"vocabulary {found.vocabulary_sha256[:8]}; this run is for "
                f"{self.persona.delta_names} and {self.persona.flag_names} in "
                f"{self.persona.vocabulary_sha256[:8]}"
            )
        load_trained(self.start, model)
        return True

    def save_best(self, model: MultiHeadModel) -> None:
        """Replace `best`: its adapter in 16 bits, since that is what is shipped and measured."""
        target = self.folder / BEST
        with locked(target, lambda: None), replaced(target) as beside:
            save_trained(beside, model, self.persona, torch.float16)

    def save_last(
        self, model: MultiHeadModel, optimiser: Any, schedule: Any, progress: Progress
    ) -> None:
        """Replace `last`."""
        target = self.folder / LAST
        with locked(target, lambda: None), replaced(target) as beside:
            save_trained(beside, model, self.persona)
            state = {
                "optimiser": optimiser.state_dict(),
                "schedule": schedule.state_dict(),
            }
            torch.save(state, beside / OPTIMISER)
            raw = msgspec.json.encode(dataclasses.asdict(progress))
            (beside / PROGRESS).write_bytes(raw)

    def load_last(self, model: MultiHeadModel, optimiser: Any, schedule: Any) -> Progress | None:
        """Go on from `last`; None if there is none."""
        with locked(self.folder / LAST, lambda: None):  # clears away what a killed run left
            pass
        folder = self.folder / LAST
        if not folder.is_dir():
            return None
        load_trained(folder, model)
        state = torch.load(folder / OPTIMISER, weights_only=True)
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        return msgspec.json.decode((folder / PROGRESS).read_bytes(), type=Progress)
