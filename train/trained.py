"""A finished run, opened again: its record, its base, and the model in PyTorch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from export.reporter import RichReporter
from heads.bundle import file_sha256
from train.base import BaseInfo, load_weights, prepare_base
from train.checkpoint import BEST, LAST, TrainedPersona, load_trained, read_persona, write_final
from train.dataset import DatasetError, dataset_sha256
from train.examples import collate, make_example
from train.multi_head import MultiHeadModel, add_adapter
from train.run import RunRecord, read_run
from train.states import LabelledState, Reading


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run trained, and on what."""

    run: Path
    record: RunRecord
    data_sha256: str
    """Of the dataset as it is now: no turn more and none fewer to train on than the run had."""
    adapter: Path
    """The folder of adapter, special-token rows and heads."""
    persona: TrainedPersona
    base: BaseInfo


def open_trained(run: Path, reporter: RichReporter, checkpoint: str = BEST) -> Trained:
    """The run in `run`, as validation liked it best or as it was at its `last` step.

    Its dataset may have other turns for validation and test by now, but none of them was trained
    on. Raises DatasetError or ExportError.
    """
    record = read_run(run)
    data = Path(record.config.data.data)
    if not record.has_learned(data):
        part = "train/ and drills/ are" if record.learned_sha256 else "the dataset is"
        raise DatasetError(
            f"{data}: {part} not what {run} was trained on, so validation turns may be among what "
            "it has learned; put back what was there then, or train anew"
        )
    adapter = write_final(run) if checkpoint == LAST else run / BEST
    base = prepare_base(record.config.base, reporter)
    if record.base_sha256 not in ("", file_sha256(base.gguf)):
        raise DatasetError(
            f"{base.gguf} is not the base that {run} was trained on; "
            "give the run's own base.gguf or base.hf, or train anew"
        )
    return Trained(run, record, dataset_sha256(data), adapter, read_persona(adapter), base)


def load_model(trained: Trained) -> MultiHeadModel:
    """The trained model, in full precision where its base is, on a GPU if there is one."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config, persona = trained.record.config, trained.persona
    lm = load_weights(config.base, trained.base.gguf, device)
    lm = add_adapter(lm, config.lora, checkpointing=False)
    names = persona.delta_names, persona.flag_names
    model = MultiHeadModel(lm, trained.base, len(names[0]), len(names[1])).to(device)
    load_trained(trained.adapter, model)
    return model.eval()


def read_with_pytorch(
    model: MultiHeadModel,
    wanted: Sequence[Reading],
    on_progress: Callable[[int], None] = lambda _: None,
) -> list[LabelledState]:
    """States and replies' NLL of `wanted`, as `StateReader` reads them from a GGUF."""
    states: list[LabelledState] = []
    device = model.heads.mean.device
    with torch.no_grad():
        for reading in wanted:
            out = model.read(collate([make_example(reading.transcript)]).to(device))
            vectors, nll, start = out.states.cpu().numpy(), out.nll.cpu(), 0
            for turn, vector in zip(reading.transcript.turns, vectors, strict=True):
                end = start + len(turn.answered)
                score = float(nll[start:end].sum())
                states.append(LabelledState(turn.label, reading.form, vector, score, end - start))
                start = end
            on_progress(len(vectors))
    return states
