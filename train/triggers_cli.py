"""`persona triggers`: what tells attacks, learnt from a world's labelled lines."""

import argparse
import tempfile
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console

from export.attack_adapter import ADAPTER, AdapterRecord, AttackAdapter, adapter_bytes
from export.default_encoder import ENCODER_FOLDER, EncoderBuild, build_encoder, trimmed
from export.packaged_encoder import read_packaged
from export.reporter import RichReporter
from heads.attacks import DETECTOR, Blend, default_detector
from rag.embedder import OnnxEmbedder
from train.commands import or_say_why, write_whole
from train.encoder_data import TriggerLine, read_lines


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `triggers`."""
    triggers = commands.add_parser("triggers", help="learn to tell attacks from harmless lines")
    actions = triggers.add_subparsers(required=True, metavar="ACTION")
    fit = actions.add_parser("fit", help="fit the detector by n-grams; half a minute")
    fit.add_argument("--out", type=Path, default=DETECTOR, metavar="FILE")
    fit.set_defaults(run=or_say_why("triggers fit", run_fit))
    teach = actions.add_parser(
        "teach", help="teach the default sentence encoder the same; half an hour on 2 cores"
    )
    add = teach.add_argument
    add("--out", type=Path, default=ENCODER_FOLDER / ADAPTER, metavar="FILE")
    add("--epochs", type=int, default=4, help="times that every line is read (default: 4)")
    add("--rank", type=int, default=32, help="of the LoRA (default: 32)")
    add("--lr", type=float, default=8e-4, help="learning rate after the warm-up (default: 8e-4)")
    add("--seed", type=int, default=0)
    teach.set_defaults(run=or_say_why("triggers teach", run_teach))
    for action in (fit, teach):
        action.add_argument(
            "world", type=Path, help="folder with triggers/{train,pairs,validation}.jsonl"
        )


def run_fit(args: argparse.Namespace) -> None:
    """Fit, write the file as a whole, and say what it does on validation.

    It learns from `train` alone: the heads know its scores (`heads/clues.py`), and would have to be
    fitted anew with another one.
    """
    from train.fit_detector import fit_detector  # noqa: PLC0415 (scikit-learn takes a second)

    detector = fit_detector(_lines(args.world, "train"), _lines(args.world, "validation"))
    write_whole(args.out, msgspec.json.format(msgspec.json.encode(detector), indent=1) + b"\n")
    print(f"wrote {args.out}: threshold {detector.threshold}, {detector.evaluation['validation']}")


def run_teach(args: argparse.Namespace) -> None:
    """Teach, weigh the int8 graph's word on validation as it will be served, write the file."""
    from train.attack_encoder import Teaching, teach  # noqa: PLC0415 (PyTorch takes seconds)
    from train.fit_detector import fit_blend  # noqa: PLC0415

    train = [*_lines(args.world, "train"), *_lines(args.world, "pairs")]
    validation = _lines(args.world, "validation")
    teaching = Teaching(rank=args.rank, epochs=args.epochs, lr=args.lr, seed=args.seed)
    detector = default_detector()
    with RichReporter(Console(stderr=True)) as reporter:
        tensors = teach(trimmed(read_packaged()), train, teaching, reporter)
        training = {"num_lines": len(train), **asdict(teaching)}
        nothing = Blend(ngrams=detector.id, encoder_weight=1, ngram_weight=0, bias=0, threshold=0.5)
        adapter = AttackAdapter(tensors, AdapterRecord(blend=nothing, training=training))
        with tempfile.TemporaryDirectory(prefix="persona-teach-") as folder:
            path = Path(folder) / ADAPTER
            path.write_bytes(adapter_bytes(adapter))
            build_encoder(EncoderBuild(Path(folder) / "encoder", None, path), reporter)
            encoder = OnnxEmbedder(Path(folder) / "encoder")
            logits = np.array([encoder.hear(line.text).attack_logit for line in validation], float)
    blend, reached = fit_blend(detector, logits, validation)
    record = AdapterRecord(blend=blend, training=training, evaluation={"validation": reached})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(args.out, adapter_bytes(AttackAdapter(tensors, record)))
    print(f"wrote {args.out}: {blend}, {reached}")


def _lines(world: Path, name: str) -> list[TriggerLine]:
    return read_lines(world / "triggers" / f"{name}.jsonl", TriggerLine)
