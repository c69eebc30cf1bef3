"""`persona evaluate`: figures of a bundle, of triggers, of retrieval, on held-out lines."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter

import msgspec
from rich.console import Console
from rich.table import Table

from export.reporter import RichReporter
from heads.bundle import read_manifest
from rag.documents import Questions
from rag.embedder import DEFAULT
from rag.retriever import Retriever
from rag.triggers import TriggerMatcher
from rag.world import World, load_world
from train.commands import or_say_why
from train.dataset import SPLITS
from train.encoder_data import Query, TriggerLine, read_lines, read_ordinary
from train.encoder_scores import (
    WHOLE,
    Detection,
    by_group,
    detection,
    interval,
    retrieval_scores,
    told_of_play,
    trigger_decisions,
)
from train.recall import open_retriever


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `evaluate`."""
    evaluate = commands.add_parser(
        "evaluate", help="score a bundle, triggers or retrieval on held-out lines"
    )
    actions = evaluate.add_subparsers(required=True, metavar="ACTION")
    _add_bundle(actions.add_parser("bundle", help="what a bundle decides and says"))
    for name, run, what in (
        ("triggers", run_triggers, "forbidden triggers on labelled lines"),
        ("retrieval", run_retrieval, "recall of documents on labelled queries"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("world", type=Path, help="the world's folder")
        action.add_argument("--embedder", default=DEFAULT, help="`default`, `use` or a folder")
        action.add_argument("--lines", type=Path, help="another file (default: the world's test)")
        action.set_defaults(run=or_say_why(f"evaluate {name}", run))
        if name == "triggers":
            action.add_argument("--show", action="store_true", help="print every line told wrongly")
            action.add_argument(
                "--split",
                choices=SPLITS,
                default="test",
                help="whose ordinary remarks are heard (default: test)",
            )
        else:
            action.add_argument(
                "--without-questions", action="store_true", help="find documents by their own texts"
            )
            action.add_argument(
                "--without-letters", action="store_true", help="find documents by vectors alone"
            )


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("bundle", type=Path, help="the bundle's folder")
    add("--world", type=Path, default=Path("worlds/mulmaru"), help="the world of the dataset")
    add("--data", type=Path, help="folder of the dataset (default: the world's)")
    add("--split", choices=SPLITS, default="validation", help="never tune on `test`")
    add("--embedder", default=DEFAULT, help="what finds notes: `default`, a folder, `none`")
    add("--untuned", type=Path, metavar="GGUF", help="the base without training, to compare with")
    add("--examples", type=int, default=0, metavar="N", help="that the base is shown first")
    add("--voice", type=int, default=0, metavar="N", help="conversations to read elsewhere too")
    add("--replies", type=int, default=80, metavar="N", help="lines to generate (default: 80)")
    add("--no-decision", action="store_true", help="lines without the decision's words before them")
    add("--seed", type=int, default=0, help="of the first line; the next has the next")
    add("--threads", type=int, default=os.cpu_count() or 1)
    out_help = "folder for report.json, report.html, samples.md, and for what was read"
    add("--out", type=Path, metavar="DIR", help=out_help)
    add("--record", type=Path, metavar="JSON", help="a heads.json to note the figures in")
    parser.set_defaults(run=or_say_why("evaluate bundle", run_bundle))


def run_bundle(args: argparse.Namespace) -> None:
    """Print the figures of a bundle, and write the report.

    Raises BundleError or DatasetError, for --record before anything is read.
    """
    from train.evaluate_bundle import EvaluateOptions, evaluate_bundle  # noqa: PLC0415 (slow)
    from train.record_figures import read_record, record_figures  # noqa: PLC0415
    from train.report import print_report, write_report  # noqa: PLC0415

    heads = read_manifest(args.bundle).heads
    if args.record:
        read_record(args.record, heads)
    options = EvaluateOptions(
        bundle=args.bundle,
        world=args.world,
        data=args.data or args.world / "data",
        split=args.split,
        embedder=args.embedder,
        untuned=args.untuned,
        num_examples=args.examples,
        num_voice=args.voice,
        num_replies=args.replies,
        has_decisions=not args.no_decision,
        seed=args.seed,
        num_threads=args.threads,
        kept=args.out,
    )
    with RichReporter(Console(stderr=True)) as reporter:
        report = evaluate_bundle(options, reporter)
    print_report(report, Console(width=None if Console().is_terminal else 160))
    if args.out:
        write_report(args.out, report)
        written = ["report.html", "report.json", *(["samples.md"] if report.samples else [])]
        print(f"wrote {', '.join(written)} in {args.out}")
    if args.record:
        record_figures(args.record, heads, report)


def _open(args: argparse.Namespace) -> tuple[World, Retriever]:
    world = load_world(args.world)
    documents, is_whole = world.documents, True
    if vars(args).get("without_questions"):
        documents = [d for d in documents if not isinstance(d, Questions)]
        is_whole = False
    return world, open_retriever(args.world, documents, args.embedder, is_kept=is_whole)


def run_triggers(args: argparse.Namespace) -> None:
    """Print precision and recall of the world's forbidden lists, whole and by part."""
    world, retriever = _open(args)
    path = args.lines or args.world / "triggers" / "test.jsonl"
    lines = read_lines(path, TriggerLine)
    labels = [line.hostile for line in lines]
    matcher = TriggerMatcher(world, retriever)
    told = trigger_decisions(world, matcher, retriever, lines)
    table = Table("", "precision", "recall", "lines")
    for name, decided in told.items():
        spans = [interval(decided, labels, lambda d: d.precision)]
        spans.append(interval(decided, labels, lambda d: d.recall))
        found = detection(decided, labels)
        cells = [
            f"{value:.3f} ({low:.3f} to {high:.3f})"
            for value, (low, high) in zip((found.precision, found.recall), spans, strict=True)
        ]
        table.add_row(name, *cells, str(found.num))
    whole = told[WHOLE]
    for title, groups in (
        ("by language", by_group(whole, lines, lambda line: line.lang)),
        ("by kind", by_group(whole, lines, lambda line: line.kind)),
    ):
        table.add_section()
        table.add_row(f"[dim]{title}[/dim]")
        for name, found in groups.items():
            table.add_row(name, *_cells(found), str(found.num))
    ordinary = read_ordinary(args.world, args.split)
    fired = told_of_play(world, matcher, retriever, ordinary)
    table.add_section()
    share = len(fired) / max(1, len(ordinary))
    table.add_row("ordinary play", f"{len(fired)} false alarms", f"{share:.1%}", str(len(ordinary)))
    console = Console()
    console.print(table)
    if args.show:
        _show_wrong(console, lines, whole)
        _show_wrong(console, fired, [True] * len(fired))


def _cells(found: Detection) -> list[str]:
    has_any = found.hits + found.misses
    if not has_any:
        return [f"{found.false_alarms} false alarms", "-"]
    return [f"{found.precision:.3f}", f"{found.recall:.3f}"]


def _show_wrong(console: Console, lines: Sequence[TriggerLine], decided: Sequence[bool]) -> None:
    for line, raised in zip(lines, decided, strict=True):
        if raised != line.hostile:
            what = "missed" if line.hostile else "false alarm"
            console.print(f"{what}: {line.kind}: {line.text}", highlight=False, markup=False)


def run_retrieval(args: argparse.Namespace) -> None:
    """Print recall within an NPC and over the world."""
    _, retriever = _open(args)
    if args.without_letters:
        blind = msgspec.structs.replace(retriever.calibration, letters=0.0)
        retriever = replace(retriever, calibration=blind)
    path = args.lines or args.world / "retrieval" / "queries.jsonl"
    queries = read_lines(path, Query)
    table = Table("search, documents looked at", "recall", "any found", "queries")
    scores = retrieval_scores(retriever, queries)
    for name, found in scores.items():
        table.add_row(name, f"{found.recall:.3f}", f"{found.hit:.3f}", str(found.num_queries))
    Console().print(table)
    embedder, times = retriever.embedder, []
    for query in queries:
        start = perf_counter()
        embedder.encode([query.query])
        times.append(perf_counter() - start)
    print(
        f"{embedder.id}: {embedder.dim} dimensions, {median(times) * 1e3:.1f} ms a query (median)"
    )
