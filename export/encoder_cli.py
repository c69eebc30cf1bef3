"""`persona embedder`: make a Hugging Face sentence encoder one that the server can use."""

import argparse
import sys
from pathlib import Path
from typing import get_args

import optimum  # noqa: F401 (takes no time; where it is missing `persona` names the extra)
from rich.console import Console

from export.cli import RichReporter
from export.errors import ExportError
from rag.embedder import EmbedderError, Quantisation

TARGETS = [name for name in get_args(Quantisation) if name != "none"]


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `embedder` and its sub-command."""
    embedder = commands.add_parser("embedder", help="export a sentence encoder")
    actions = embedder.add_subparsers(required=True, metavar="ACTION")
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


def run_export(args: argparse.Namespace) -> int:
    """Exports; 0 if the folder is there now."""
    from export.encoder import (  # noqa: PLC0415 (PyTorch takes seconds to import)
        EncoderOptions,
        export_encoder,
    )

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
