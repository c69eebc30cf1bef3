"""`persona bundle`: build and check bundles."""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from export.build import build
from export.build_key import DEFAULT_FOLDER, BuildOptions
from export.check import run_check
from export.errors import ExportError
from export.merge_lora import CONFIG
from export.quantise import QUANT_TYPES
from export.reporter import RichReporter
from heads.bundle import BundleError, cache_folder, default_bundle_folder
from runtime.errors import ModelError

_ADAPTER = DEFAULT_FOLDER / "adapter"


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `bundle` and its sub-commands."""
    bundle = commands.add_parser("bundle", help="build or check a bundle")
    actions = bundle.add_subparsers(required=True, metavar="ACTION")
    _add_build(actions.add_parser("build", help="build the default bundle, or one like it"))
    check = actions.add_parser("check", help="verify a bundle and say how to mend it")
    check.add_argument("folder", type=Path, metavar="DIR")
    check.set_defaults(run=run_check)


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--out", type=Path, metavar="DIR", help="where to (default: the user's cache)")
    add("--quant", choices=QUANT_TYPES, default="q8_0", help="weight type (default: q8_0)")
    adapters = parser.add_mutually_exclusive_group()
    adapters.add_argument(
        "--adapter", type=Path, metavar="DIR", help="a PEFT LoRA adapter to merge"
    )
    adapters.add_argument(
        "--no-adapter",
        action="store_true",
        help="the base as it was before training: weights alone",
    )
    base_help = "a GGUF or a folder of Hugging Face weights (default: the packaged Gemma)"
    add("--base", type=Path, metavar="PATH", help=base_help)
    add("--heads", type=Path, metavar="DIR", default=DEFAULT_FOLDER, help="heads.onnx, heads.json")
    add("--corpus", type=Path, nargs="+", metavar="FILE", default=(), help="keep what occurs there")
    add("--no-trim", action="store_true", help="keep the whole vocabulary")
    add("--model-only", action="store_true", help="weights alone, to fit heads on")
    add("--force", action="store_true", help="build even if nothing has changed")
    parser.set_defaults(run=run_build)


def run_build(args: argparse.Namespace) -> int:
    """Builds; 0 if the bundle is there now."""
    try:
        with RichReporter(Console(stderr=True)) as reporter:
            build(build_options(args), reporter)
    except (ExportError, BundleError, ModelError) as error:
        print(f"persona bundle build: {error}", file=sys.stderr)
        return 1
    return 0


def build_options(args: argparse.Namespace) -> BuildOptions:
    """What `persona bundle build` builds with these arguments."""
    is_model_only = args.model_only or args.no_adapter  # no heads read an untrained base's states
    name = "untrained" if args.no_adapter else "default"
    default = cache_folder() / "models" / name if is_model_only else default_bundle_folder()
    is_default = args.base is None and not args.no_adapter and (_ADAPTER / CONFIG).is_file()
    return BuildOptions(
        out=args.out or default,
        quant=args.quant,
        adapter=args.adapter or (_ADAPTER if is_default else None),
        base=args.base,
        heads=args.heads,
        corpus=tuple(args.corpus),
        trim=not args.no_trim,
        model_only=is_model_only,
        force=args.force,
    )
