"""`persona triggers fit`: the detector of attacks, from a world's labelled lines."""

import argparse
from pathlib import Path

import msgspec

from heads.attacks import DETECTOR
from train.commands import or_say_why, write_whole
from train.encoder_data import TriggerLine, read_lines


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `triggers`."""
    triggers = commands.add_parser("triggers", help="fit the detector of attacks")
    actions = triggers.add_subparsers(required=True, metavar="ACTION")
    fit = actions.add_parser("fit", help="fit it on triggers/train.jsonl of a world")
    fit.add_argument("world", type=Path, help="folder with triggers/{train,validation}.jsonl")
    fit.add_argument("--out", type=Path, default=DETECTOR, metavar="FILE")
    fit.set_defaults(run=or_say_why("triggers fit", run_fit))


def run_fit(args: argparse.Namespace) -> None:
    """Fit, write the file as a whole, and say what it does on validation."""
    from train.fit_detector import fit_detector  # noqa: PLC0415 (scikit-learn takes a second)

    train, validation = (
        read_lines(args.world / "triggers" / f"{name}.jsonl", TriggerLine)
        for name in ("train", "validation")
    )
    detector = fit_detector(train, validation)
    write_whole(args.out, msgspec.json.format(msgspec.json.encode(detector), indent=1) + b"\n")
    print(f"wrote {args.out}: threshold {detector.threshold}, {detector.evaluation['validation']}")
