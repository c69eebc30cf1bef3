"""`persona embedder`: build the default sentence encoder, or export a Hugging Face one."""

import argparse
import sys
from pathlib import Path
from typing import get_args

from rich.console import Console

from export.attack_adapter import ADAPTER
from export.default_encoder import ENCODER_FOLDER, EncoderBuild, build_encoder
from export.errors import ExportError
from export.reporter import RichReporter
from rag.calibration import CALIBRATION
from rag.embedder import DEFAULT, EmbedderError, Quantisation, encoder_folder

TARGETS = [name for name in get_args(Quantisation) if name not in ("none", "any")]


def add_actions(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `build` and `export` under `embedder`."""
    build = actions.add_parser("build", help="build the default encoder into the user's cache")
    build.add_argument("--out", type=Path, metavar="DIR", help="where to (default: the cache)")
    build.add_argument("--force", action="store_true", help="build even if nothing has changed")
    build.set_defaults(run=run_build)
    export = actions.add_parser("export", help="write a Hugging Face encoder as int8 ONNX")
    add = export.add_argument
    add("model", type=Path, metavar="MODEL_DIR", help="a local Hugging Face folder")
    add("--out", type=Path, metavar="DIR", required=True, help="where to; replaced as a whole")
    add("--name", help="what to call it (default: the name of MODEL_DIR)")
    add("--force", action="store_true", help="keep it even if it differs much from PyTorch")
    weights = export.add_mutually_exclusive_group()
    weights.add_argument("--target", choices=TARGETS, default="arm64", help="CPU (default: arm64)")
    weights.add_argument("--no-quantise", action="store_true", help="keep 32-bit weights")
    export.set_defaults(run=run_export)


def run_build(args: argparse.Namespace) -> int:
    """Builds; 0 if the encoder is there now."""
    calibration, adapter = ENCODER_FOLDER / CALIBRATION, ENCODER_FOLDER / ADAPTER
    out = args.out or encoder_folder(DEFAULT)
    lesson = adapter if adapter.is_file() else None
    options = EncoderBuild(out, calibration, lesson, args.force)
    try:
        with RichReporter(Console(stderr=True)) as reporter:
            build_encoder(options, reporter)
    except (ExportError, EmbedderError) as error:
        print(f"persona embedder build: {error}", file=sys.stderr)
        return 1
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Exports; 0 if the folder is there now."""
    try:
        from export.encoder import (  # noqa: PLC0415 (PyTorch takes seconds to import)
            EncoderOptions,
            export_encoder,
        )
    except ModuleNotFoundError as error:
        print(
            f"persona embedder export: the Python package {error.name!r} is not installed; "
            "pip install 'persona-chat-engine[export,train]'",
            file=sys.stderr,
        )
        return 1

    quantisation: Quantisation = "none" if args.no_quantise else args.target
    options = EncoderOptions(args.model, args.out, quantisation, args.name, args.force)
    try:
        with RichReporter(Console(stderr=True)) as reporter:
            record = export_encoder(options, reporter)
    except (ExportError, EmbedderError) as error:
        print(f"persona embedder export: {error}", file=sys.stderr)
        return 1
    print(f"{record.source}: {record.dim} dimensions, licence {record.licence}")
    return 0
