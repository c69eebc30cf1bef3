"""One training run in its folder: what it learns from, the trainer, and how it is stopped.

RUN/run.json      configuration and hashes; a run with others does not go on here
RUN/best, last    what validation liked best; where to go on
RUN/log.jsonl     a row for each step and validation; also tensorboard/ and curves.png
"""

import fcntl
import hashlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType

import msgspec
import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from export.reporter import RichReporter
from heads.bundle import file_sha256
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.llama_backend import LlamaModel
from runtime.prompt import FORMAT
from train.base import BaseInfo, load_weights, prepare_base
from train.checkpoint import BEST, Checkpoints, TrainedPersona, trained_sha256
from train.commands import write_whole
from train.config import TrainConfig
from train.dataset import (
    LEARNED,
    DatasetError,
    TurnLabel,
    conversations,
    dataset_sha256,
    spread,
)
from train.examples import Example, Shares, make_examples
from train.multi_head import PARTS, MultiHeadModel, add_adapter
from train.recall import open_writer
from train.run_log import RunLog
from train.trainer import MultiHeadTrainer

RUN = "run.json"
LOCK = ".lock"
INTERRUPTED = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM)

Splits = Mapping[str, Sequence[TurnLabel]]


class RunRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`run.json`."""

    config: TrainConfig
    vocabulary_sha256: str
    data_sha256: str
    """Of the whole dataset."""
    learned_sha256: str = ""
    """Of the part that is trained on; empty in a run that was begun before it was recorded."""
    prompt_format: int = FORMAT
    start_sha256: str = ""
    """Of the adapter that the run began with."""
    base_sha256: str = ""
    """Of the base's GGUF; as the next, empty in a run that was begun before it was recorded."""
    world_sha256: str = ""
    num_processes: int = 1

    def has_learned(self, data: Path) -> bool:
        """Whether what is there to train on in `data` is what the run was trained on."""
        if not self.learned_sha256:
            return self.data_sha256 == dataset_sha256(data)
        return self.learned_sha256 == dataset_sha256(data, LEARNED)


def read_run(folder: Path) -> RunRecord:
    """The record of a run. Raises DatasetError."""
    try:
        return msgspec.json.decode((folder / RUN).read_bytes(), type=RunRecord)
    except (OSError, msgspec.DecodeError) as error:
        raise DatasetError(f"{folder}: no run of `persona train`: {error}") from error


def world_sha256(world: World) -> str:
    """Hex SHA-256 of all documents of a world."""
    return hashlib.sha256(msgspec.json.encode(world.documents)).hexdigest()


class TrainingRun:
    """A run of `config` in `folder`, from what is trained in `start`, or from its best if a run.

    Raises ExportError or DatasetError.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        world: World,
        splits: Splits,
        start: Path | None = None,
    ) -> None:
        self.config, self.folder, self.world, self.splits = config, folder, world, splits
        self.start = start / BEST if start and (start / BEST).is_dir() else start
        self.accelerator = Accelerator(mixed_precision="no")  # `run.precision` decides
        self.console = Console(stderr=True, quiet=not self.accelerator.is_main_process)

    def go(self) -> int:
        """Train, or go on training; 0 when done, 130 when stopped at a step to go on from."""
        is_main = self.accelerator.is_main_process
        with locked_run(self.folder) if is_main else nullcontext():
            return self._go()

    def _go(self) -> int:
        if threads := self.config.run.threads:
            torch.set_num_threads(threads)
        with self.accelerator.main_process_first():
            base = self._prepare()
        with vocabulary_only(base.gguf) as model:
            encoder = PromptEncoder(model, base.special_ids)
            examples = self._examples(encoder)
        trainer = self._trainer(base, examples)
        is_done = self._train(trainer)
        best = trainer.progress
        self.console.print(
            f"best at step {best.best_step} (composite {best.best:.4f}): {self.folder / 'best'}"
            if is_done
            else "stopped; the same command goes on from here",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
        return 0 if is_done else INTERRUPTED

    def _prepare(self) -> BaseInfo:
        with RichReporter(self.console) as reporter:
            base = prepare_base(self.config.base, reporter)
        data = Path(self.config.data.data)
        record = RunRecord(
            config=self.config,
            vocabulary_sha256=base.vocabulary_sha256,
            data_sha256=dataset_sha256(data),
            learned_sha256=dataset_sha256(data, LEARNED),
            start_sha256=trained_sha256(self.start) if self.start else "",
            base_sha256=file_sha256(base.gguf),
            world_sha256=world_sha256(self.world),
            num_processes=self.accelerator.num_processes,
        )
        if (self.folder / RUN).is_file() and (changed := _changed(self.folder, record)):
            raise DatasetError(
                f"{self.folder} holds a run of another {', '.join(changed)}; "
                "give another --out, or remove it"
            )
        if self.accelerator.is_main_process:
            write_whole(self.folder / RUN, msgspec.json.format(msgspec.json.encode(record)))
        return base

    def _examples(self, encoder: PromptEncoder) -> tuple[list[Example], list[Example]]:
        config = self.config
        world = Path(config.data.world)
        writer = open_writer(world, self.world, config.data.note_embedder, encoder)
        make = partial(
            make_examples,
            writer=writer,
            max_tokens=config.data.max_tokens,
        )
        data = config.data
        shares = Shares(data.whole_share, data.rebuilt_share, data.alone_share, config.run.seed)
        train, validation = (
            list(conversations(self.splits[name]).values()) for name in ("train", "validation")
        )
        if count := config.run.eval_conversations:
            validation = spread(validation, count)
        with RichReporter(self.console) as reporter:
            done = reporter.stage("writing prompts", len(train) + len(validation))

            def made(groups: Sequence[Sequence[TurnLabel]], shares: Shares) -> list[Example]:
                found: list[Example] = []
                for turns in groups:
                    found += make([turns], shares=shares)
                    done(1)
                return found

            whole = replace(shares, whole=1.0, alone=0.0)
            return made(train, shares), made(validation, whole)

    def _trainer(
        self, base: BaseInfo, examples: tuple[list[Example], list[Example]]
    ) -> MultiHeadTrainer:
        torch.manual_seed(self.config.run.seed)
        first = self.splits["train"][0]
        lm = load_weights(self.config.base, base.gguf, self.accelerator.device)
        checkpointing = self.config.run.gradient_checkpointing
        lm = add_adapter(lm, self.config.lora, checkpointing=checkpointing)
        model = MultiHeadModel(lm, base, len(first.delta), len(first.flag))
        persona = TrainedPersona(base.vocabulary_sha256, list(first.delta), list(first.flag))
        checkpoints = Checkpoints(self.folder, persona, self.start)
        return MultiHeadTrainer(self.config, model, examples, checkpoints, self.accelerator)

    def _train(self, trainer: MultiHeadTrainer) -> bool:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        is_plain = not self.console.is_terminal
        with Progress(*columns, console=self.console, disable=is_plain) as progress:
            task = progress.add_task("training", total=trainer.num_steps)

            def on_step(step: int, figures: dict[str, float]) -> None:
                parts = " ".join(f"{k} {figures[k]:.3f}" for k in PARTS)
                progress.update(task, completed=step, description=parts)
                if is_plain:
                    self.console.print(f"step {step}/{trainer.num_steps} {parts}", highlight=False)

            return trainer.run(partial(RunLog, self.folder), on_step, _stopped_gently)


def _changed(folder: Path, record: RunRecord) -> list[str]:
    """What the record in `folder` says otherwise; what it lacks its `data_sha256` speaks for."""
    found = read_run(folder)
    if not found.learned_sha256:
        found = msgspec.structs.replace(found, learned_sha256=record.learned_sha256)
    names = record.__struct_fields__
    return [name for name in names if getattr(found, name) != getattr(record, name)]


@contextmanager
def locked_run(folder: Path) -> Iterator[None]:
    """The right to train in `folder`. Raises DatasetError while another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DatasetError(f"another process trains in {folder}; wait for it") from error
        yield


@contextmanager
def vocabulary_only(gguf: Path) -> Iterator[LlamaModel]:
    """The vocabulary of a GGUF."""
    model = LlamaModel(gguf, vocab_only=True)
    try:
        yield model
    finally:
        model.close()


@contextmanager
def _stopped_gently() -> Iterator[Callable[[], bool]]:
    """The question whether Ctrl-C or SIGTERM came; the second one stops at once."""
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(caught)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
