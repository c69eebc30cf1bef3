"""`persona triggers`: what tells attacks, learnt from a world's labelled lines."""

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from export.attack_adapter import (
    ADAPTER,
    AdapterRecord,
    AttackAdapter,
    adapter_bytes,
    read_adapter,
)
from export.default_encoder import ENCODER_FOLDER, EncoderBuild, build_encoder, trimmed
from export.packaged_encoder import Array, read_packaged
from export.reporter import Reporter, RichReporter
from heads.attacks import DETECTOR, Blend, default_detector
from rag.embedder import OnnxEmbedder
from train.commands import or_say_why, write_whole
from train.dataset import DatasetError
from train.encoder_data import TriggerLine, read_lines, read_ordinary

LESSON = ENCODER_FOLDER / ADAPTER


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `triggers`."""
    triggers = commands.add_parser("triggers", help="learn to tell attacks from harmless lines")
    actions = triggers.add_subparsers(required=True, metavar="ACTION")
    fit = actions.add_parser("fit", help="fit the detector by n-grams; a minute")
    teach = actions.add_parser(
        "teach", help="teach the default sentence encoder the same; half an hour on 2 cores"
    )
    add = teach.add_argument
    add("--epochs", type=int, default=4, help="times that every line is read (default: 4)")
    add("--rank", type=int, default=32, help="of the LoRA (default: 32)")
    add("--lr", type=float, default=8e-4, help="learning rate after the warm-up (default: 8e-4)")
    add("--seed", type=int, default=0)
    add("--from", dest="start", type=Path, metavar="FILE", help="go on from what was taught before")
    weigh = actions.add_parser(
        "weigh", help="weigh what was taught beside the n-grams anew, after `fit`"
    )
    for name, action, run, out in (
        ("fit", fit, run_fit, DETECTOR),
        ("teach", teach, run_teach, LESSON),
        ("weigh", weigh, run_weigh, LESSON),
    ):
        action.add_argument("world", type=Path, help="folder with triggers/*.jsonl and data/")
        action.add_argument(
            "--out", type=Path, default=out, metavar="FILE", help=f"default: {out.name}"
        )
        action.set_defaults(run=or_say_why(f"triggers {name}", run))


def run_fit(args: argparse.Namespace) -> None:
    """Fit, write the file as a whole, and say what it does on validation. Raises DatasetError.

    The heads know its scores (`heads/clues.py`): with another one they have to be fitted anew.
    """
    from train.fit_detector import fit_detector  # noqa: PLC0415 (scikit-learn takes a second)

    held_out = _HeldOut.of(args.world)
    detector = fit_detector(_learnt_from(args.world), held_out.lines, held_out.ordinary)
    write_whole(args.out, msgspec.json.format(msgspec.json.encode(detector), indent=1) + b"\n")
    print(f"wrote {args.out}: threshold {detector.threshold}, {detector.evaluation['validation']}")


def run_teach(args: argparse.Namespace) -> None:
    """Teach, weigh what was taught, write the file as a whole. Raises DatasetError."""
    from train.attack_encoder import Teaching, teach  # noqa: PLC0415 (PyTorch takes seconds)

    for name, value in (("epochs", args.epochs), ("rank", args.rank), ("lr", args.lr)):
        if value <= 0:
            raise DatasetError(f"--{name} is {value}; it must be more than 0")
    before = read_adapter(args.start) if args.start else None
    train = _learnt_from(args.world)
    held_out = _HeldOut.of(args.world)
    teaching = Teaching(rank=args.rank, epochs=args.epochs, lr=args.lr, seed=args.seed)
    with RichReporter(Console(stderr=True)) as reporter:
        try:
            start = before.tensors if before else None
            tensors = teach(trimmed(read_packaged()), train, teaching, reporter, start)
        except ValueError as error:
            if before is None:
                raise
            raise DatasetError(f"{args.start}: {error}; teach with --rank as before") from error
        training = {"num_lines": len(train), **asdict(teaching)}
        if before:
            training["before"] = before.record.training
        # written before it is weighed, not to be lost: no encoder is built with it as it is
        unweighed = AdapterRecord(blend=Blend.of_encoder_alone(ngrams=""), training=training)
        write_whole(args.out, adapter_bytes(AttackAdapter(tensors, unweighed)))
        _weigh_and_write(tensors, training, held_out, args.out, reporter)


def run_weigh(args: argparse.Namespace) -> None:
    """Weigh what was taught before, and write it again. Raises BuildError or DatasetError."""
    lesson, held_out = read_adapter(args.out), _HeldOut.of(args.world)
    with RichReporter(Console(stderr=True)) as reporter:
        _weigh_and_write(lesson.tensors, lesson.record.training, held_out, args.out, reporter)


@dataclass(frozen=True, slots=True)
class _HeldOut:
    """What chooses the threshold."""

    lines: Sequence[TriggerLine]
    ordinary: Sequence[TriggerLine]

    @classmethod
    def of(cls, world: Path) -> "_HeldOut":
        """The world's validation lines. Raises DatasetError."""
        return cls(_lines(world, "validation"), read_ordinary(world, "validation"))


def _weigh_and_write(
    tensors: Mapping[str, Array],
    training: dict[str, Any],
    held_out: _HeldOut,
    out: Path,
    reporter: Reporter,
) -> None:
    """Fits the blend on the word of the int8 graph, which is what will be served."""
    from train.fit_detector import fit_blend  # noqa: PLC0415 (scikit-learn takes a second)

    detector = default_detector()
    alone = Blend.of_encoder_alone(detector.id)
    lesson = AttackAdapter(tensors, AdapterRecord(blend=alone, training=training))
    with tempfile.TemporaryDirectory(prefix="persona-teach-") as folder:
        path = Path(folder) / ADAPTER
        path.write_bytes(adapter_bytes(lesson))
        build_encoder(EncoderBuild(Path(folder) / "encoder", None, path), reporter)
        encoder = OnnxEmbedder(Path(folder) / "encoder")

        def hear(text: str) -> float:
            logit = encoder.hear(text).attack_logit
            assert logit is not None, "it was taught"
            return logit

        blend, reached = fit_blend(detector, hear, held_out.lines, held_out.ordinary)
    record = AdapterRecord(blend=blend, training=training, evaluation={"validation": reached})
    write_whole(out, adapter_bytes(AttackAdapter(tensors, record)))
    print(f"wrote {out}: {blend}, {reached}")


def _learnt_from(world: Path) -> list[TriggerLine]:
    """`train`, `pairs`, and ordinary remarks of the training split. Raises DatasetError."""
    lines = [*_lines(world, "train"), *_lines(world, "pairs")]
    return lines + read_ordinary(world, "train")


def _lines(world: Path, name: str) -> list[TriggerLine]:
    """Raises DatasetError where they are not of both kinds."""
    path = world / "triggers" / f"{name}.jsonl"
    lines = read_lines(path, TriggerLine)
    if {line.hostile for line in lines} != {True, False}:
        raise DatasetError(f"{path}: {len(lines)} lines; some must be attacks and some harmless")
    return lines
