"""`persona embedder calibrate`, beside the commands that build and export."""

import argparse
from pathlib import Path

import msgspec
from rich.console import Console

from export.default_encoder import ENCODER_FOLDER, EncoderBuild, build_encoder
from export.encoder_cli import add_actions
from export.packaged_encoder import NAME
from export.reporter import RichReporter
from heads.bundle import cache_folder
from rag.calibration import CALIBRATION
from rag.embedder import DEFAULT, OnnxEmbedder
from rag.world import load_world
from train.commands import or_say_why, write_whole
from train.encoder_calibrate import as_json, calibrate
from train.encoder_data import read_questions


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `embedder`."""
    embedder = commands.add_parser("embedder", help="build, export or calibrate a sentence encoder")
    actions = embedder.add_subparsers(required=True, metavar="ACTION")
    add_actions(actions)
    calibrate = actions.add_parser("calibrate", help="measure what an encoder's cosines mean")
    calibrate.add_argument("world", type=Path, help="folder of a world with questions")
    calibrate.add_argument(
        "--embedder", default=DEFAULT, help="`default`, or the folder of an exported one"
    )
    calibrate.set_defaults(run=or_say_why("embedder calibrate", run_calibrate))


def run_calibrate(args: argparse.Namespace) -> None:
    """Write `calibration.json`: into the repository for the default, beside another encoder."""
    world = load_world(args.world)
    is_default = args.embedder == DEFAULT
    folder = _uncalibrated() if is_default else Path(args.embedder)
    out = (ENCODER_FOLDER if is_default else folder) / CALIBRATION
    questions = read_questions(world.documents)
    found = calibrate(OnnxEmbedder(folder), world, questions)
    if is_default:
        found = msgspec.structs.replace(found, embedder=NAME)
    write_whole(out, as_json(found))
    print(f"wrote {out}: note {found.note}, same {found.same}, letters {found.letters}")


def _uncalibrated() -> Path:
    """The default encoder, built without the calibration that is to be made."""
    folder = cache_folder() / "encoders" / "uncalibrated"
    with RichReporter(Console(stderr=True)) as reporter:
        build_encoder(EncoderBuild(folder, None), reporter)
    return folder
