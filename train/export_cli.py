"""`persona export`: from a trained run to a bundle, and the figures that say they are the same."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export.quantise import QUANT_TYPES
from export.reporter import RichReporter
from train.commands import or_say_why
from train.dataset import DatasetError
from train.parity import Parity

DEFAULT_TYPES = ("f16", "q8_0", "q5_k_m", "q4_k_m", "q4_0")


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `export`."""
    parser = commands.add_parser("export", help="make a bundle of a trained run")
    add = parser.add_argument
    add("run_folder", type=Path, metavar="RUN", help="folder of `persona train`")
    add("--out", type=Path, required=True, metavar="BUNDLE", help="folder of the bundle")
    add("--types", nargs="+", choices=QUANT_TYPES, default=DEFAULT_TYPES, help="types to compare")
    add("--quant", choices=QUANT_TYPES, help="type that serves (default: the parity report's)")
    add("--checkpoint", choices=("best", "last"), default="best", help="of the run")
    add("--compare", type=int, default=64, metavar="N", help="conversations to compare types on")
    add("--refit", type=int, default=120, metavar="N", help="conversations to refit heads on")
    add("--keep", type=Path, metavar="DIR", help="copy adapter and heads there, as export/default")
    add("--threads", type=int, default=os.cpu_count() or 1)
    parser.set_defaults(run=or_say_why("export", run_export))


def run_export(args: argparse.Namespace) -> None:
    """Build the variants, compare them with PyTorch, calibrate, write the bundle.

    Raises DatasetError (a number that is too small too) or ExportError.
    """
    from train.export_run import ExportOptions, export_run  # noqa: PLC0415 (PyTorch is slow)

    for name, least in (("compare", 1), ("refit", 0), ("threads", 1)):
        if (value := getattr(args, name)) < least:
            raise DatasetError(f"--{name} is {value}; it must be {least} or more")
    if args.quant and args.quant not in args.types:
        args.types = [*args.types, args.quant]
    options = ExportOptions(
        run=args.run_folder,
        out=args.out,
        types=args.types,
        quant=args.quant,
        num_compared=args.compare,
        num_refit=args.refit,
        checkpoint=args.checkpoint,
        num_threads=args.threads,
        keep=args.keep,
    )
    with RichReporter(Console(stderr=True)) as reporter:
        report = export_run(options, reporter)
    print_parity(report.variants, report.untrained.perplexity, str(report.machine))
    print(f"{report.chosen}: {report.why}; heads: {report.heads}, merits {report.merits}")
    print(f"wrote {args.out}; serve it with PERSONA_BUNDLE={args.out} persona serve")


def print_parity(variants: Sequence[Parity], untrained: float, machine: str) -> None:
    """A row for each variant."""
    title = f"beside PyTorch; perplexity without training {untrained:.2f}"
    table = Table(title=title, title_justify="left", caption=machine)
    for column in (
        "type",
        "MB",
        "flags agree",
        "|Δdelta| mean, max",
        "cosine mean, min",
        "perplexity",
        "kept of NLL, STATE",
        "prefill, decode tok/s",
    ):
        table.add_column(column)
    for v in variants:
        table.add_row(
            v.quantisation,
            f"{v.num_bytes / 1e6:.0f}",
            f"{v.flags_agree:.2%} ({v.num_flags_differ} differ)",
            f"{v.delta_difference:.4f}, {v.delta_difference_max:.3f}",
            f"{v.cosine_mean:.4f}, {v.cosine_min:.4f}",
            f"{v.perplexity:.2f}",
            f"{v.kept_nll:.1%}, {v.kept_state:.1%}",
            f"{v.speed.prefill:.0f}, {v.speed.decode:.0f}",
        )
    Console(width=None if Console().is_terminal else 160).print(table)
