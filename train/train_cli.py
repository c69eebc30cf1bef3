"""`persona train`: from a dataset to a trained adapter, special-token rows and heads."""

import argparse
from pathlib import Path

from rag.world import load_world
from train.commands import or_say_why
from train.config import read_config
from train.dataset import check_npcs, read_dataset


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `train`."""
    parser = commands.add_parser("train", help="fine-tune a base on a dataset")
    add = parser.add_argument
    add("--config", type=Path, default=Path("demo"), help="TOML file, or a name in train/configs")
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run; goes on there")
    add(
        "--from",
        type=Path,
        metavar="RUN|ADAPTER",
        dest="start",
        help="begin with the best of that run, or with an adapter such as export/default/adapter",
    )
    add("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", dest="changes")
    parser.set_defaults(run=or_say_why("train", run_train))


def run_train(args: argparse.Namespace) -> int:
    """Train, or go on training; 130 if interrupted, at a step from which it goes on.

    Raises DatasetError, ExportError, WorldError or EmbedderError.
    """
    config = read_config(args.config, args.changes)
    world = load_world(Path(config.data.world))
    splits = read_dataset(Path(config.data.data), ("train", "validation"))
    check_npcs(splits, world)
    from train.run import TrainingRun  # noqa: PLC0415 (PyTorch is slow to import)

    run = TrainingRun(config, args.out, world, splits, args.start)
    return run.go()
