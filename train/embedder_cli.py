"""`persona embedder train` and `calibrate`, beside the commands that build and export."""

import argparse
import os
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import Progress

from export.cli import RichReporter
from export.default_encoder import (
    ADAPTER,
    ENCODER_FOLDER,
    EncoderBuild,
    adapter_name,
    build_encoder,
    trimmed,
)
from export.encoder_cli import add_actions
from export.packaged_encoder import read_packaged
from heads.bundle import cache_folder
from rag.calibration import CALIBRATION
from rag.embedder import DEFAULT, OnnxEmbedder
from rag.world import load_world
from train.commands import or_say_why
from train.encoder_data import TriggerLine, read_lines, read_questions


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `embedder`."""
    embedder = commands.add_parser("embedder", help="build, export or train a sentence encoder")
    actions = embedder.add_subparsers(required=True, metavar="ACTION")
    add_actions(actions)
    train = actions.add_parser("train", help="train the default encoder's adapter on a world")
    train.add_argument("world", type=Path, help="folder with questions and triggers/train.jsonl")
    train.add_argument("--out", type=Path, default=ENCODER_FOLDER / ADAPTER, metavar="FILE")
    train.add_argument("--epochs", type=int, default=4)
    train.add_argument("--seed", type=int, default=0)
    train.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    train.add_argument(
        "--max-lines", type=int, default=None, help="use so many lines only, for a trial"
    )
    train.set_defaults(run=or_say_why("embedder train", run_train))
    calibrate = actions.add_parser(
        "calibrate", help="measure an encoder's cosines and fit its detector of attacks"
    )
    calibrate.add_argument("world", type=Path, help="folder with questions and triggers/")
    calibrate.add_argument(
        "--embedder", default=DEFAULT, help="`default` (its adapter is built first), or a folder"
    )
    calibrate.set_defaults(run=or_say_why("embedder calibrate", run_calibrate))


def run_train(args: argparse.Namespace) -> None:
    """Train, with losses shown; the adapter is written after every epoch."""
    from train.encoder_train import (  # noqa: PLC0415 (PyTorch takes seconds to import)
        EncoderTraining,
        Step,
        TrainingTexts,
        train_adapter,
    )

    questions = read_questions(load_world(args.world).documents)
    lines = read_lines(args.world / "triggers" / "train.jsonl", TriggerLine)[: args.max_lines]
    config = EncoderTraining(epochs=args.epochs, seed=args.seed, threads=args.threads)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("training", total=None)

        def on_step(step: Step) -> None:
            losses = f"attack {step.attack_loss:.3f}, retrieval {step.retrieval_loss:.3f}"
            progress.update(task, completed=step.number, total=step.total, description=losses)
            if not console.is_terminal and step.number % 50 == 0:
                console.print(f"step {step.number} of {step.total}: {losses}")

        train_adapter(
            trimmed(read_packaged()),
            TrainingTexts(lines, [q for q in questions if not q.is_held_out]),
            config,
            args.out,
            on_step,
        )
    print(f"wrote {args.out}; next: persona embedder calibrate {args.world}")


def run_calibrate(args: argparse.Namespace) -> None:
    """Write `calibration.json`: into the repository for the default, beside another encoder."""
    from train.encoder_calibrate import as_json, calibrate  # noqa: PLC0415 (scikit-learn)

    world = load_world(args.world)
    is_default = args.embedder == DEFAULT
    folder = _uncalibrated() if is_default else Path(args.embedder)
    out = (ENCODER_FOLDER if is_default else folder) / CALIBRATION
    train, validation = (
        read_lines(args.world / "triggers" / f"{name}.jsonl", TriggerLine)
        for name in ("train", "validation")
    )
    questions = read_questions(world.documents)
    found = calibrate(OnnxEmbedder(folder), world, questions, train, validation)
    if is_default:
        found = msgspec.structs.replace(found, embedder=adapter_name(ENCODER_FOLDER / ADAPTER))
    beside = out.with_name(f".{out.name}.new")
    beside.write_bytes(as_json(found))
    beside.replace(out)
    assert found.detector is not None, "calibrate fits one"
    scores = found.detector.evaluation["validation"]
    print(f"wrote {out}: note {found.note}, same {found.same}, detector {scores}")


def _uncalibrated() -> Path:
    """The default encoder, built without the calibration that is to be made."""
    folder = cache_folder() / "encoders" / "uncalibrated"
    with RichReporter(Console(stderr=True)) as reporter:
        build_encoder(EncoderBuild(folder, ENCODER_FOLDER / ADAPTER, None), reporter)
    return folder
