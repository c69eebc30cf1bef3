"""`persona bench http`: what `/ask` costs besides the model.

A real uvicorn on loopback runs the real application and pipeline, sentence encoder and heads
included; only the engine is a stand-in whose evaluations cost nothing (bench/instant_server.py).
Overhead is the client's wall time less what the stand-in's own thread took. One request at a time,
JSON answers and event streams in turns, in the words of a dataset's players.

A real engine takes longer than an instant one over a line, and the sentences of it are checked
meanwhile: of that part of the overhead a player waits for the last sentence's alone.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from rich.progress import Progress

from bench.asks import endless_bodies
from bench.instant_server import RECORDS, Record
from bench.players import read_players
from bench.report import add_output, print_table, write_report
from bench.server_process import (
    EVENT_STREAM,
    Server,
    ServerFailed,
    add_server,
    run_server,
    server_settings,
    shown_settings,
)
from train.dataset import DatasetError, TurnLabel

MAX_P50_MS, MAX_P95_MS = 1.5, 4.0
"""Upper bounds of the overhead."""
MAX_TOKENS = 96
INSTANT = (sys.executable, "-m", "bench.instant_server")
_WAYS = {"JSON": "application/json", "SSE": EVENT_STREAM}
_SEED = 0

OVERHEAD = "overhead"
PARTS: dict[str, Callable[[float, Record], float]] = {
    OVERHEAD: lambda wall, r: wall - r.engine,
    "of it: encoder, the utterance": lambda _, r: r.hearing,
    "of it: encoder, the line's sentences": lambda _, r: r.checking,
    "of it: heads and decision": lambda _, r: r.decision,
    "of it: the rest of the application": lambda _, r: r.app - r.engine - r.decision - r.encoder,
    "of it: uvicorn, loopback, client": lambda wall, r: wall - r.app,
    "overhead less the encoder": lambda wall, r: wall - r.engine - r.encoder,
}
"""Milliseconds of one request, from the client's wall time and the server's record."""


@dataclass(slots=True)
class Way:
    """One way to be answered: milliseconds by part, `[p50, p95]` of each run."""

    name: str
    accept: str
    runs: dict[str, list[list[float]]] = field(default_factory=lambda: {p: [] for p in PARTS})
    num_main: int = 0
    """Answers that came by the main path."""
    num_checked: int = 0
    """Sentences that were compared with bad examples."""

    def middle(self, part: str) -> tuple[float, float]:
        """p50 and p95, medians over the runs."""
        p50, p95 = zip(*self.runs[part], strict=True)
        return median(p50), median(p95)

    @property
    def is_good(self) -> bool:
        """Whether the bounds are kept."""
        p50, p95 = self.middle(OVERHEAD)
        return p50 <= MAX_P50_MS and p95 <= MAX_P95_MS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add_server(parser)
    add = parser.add_argument
    add("--requests", type=int, default=2_000, help="of each run and way (default: 2000)")
    add("--warm-up", type=int, default=200, help="requests before them, each way (default: 200)")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a bound is missed or the arguments are wrong."""
    try:
        check(args)
        turns = read_players(args.data)
    except (DatasetError, ValueError) as error:
        print(f"persona bench http: {error}", file=sys.stderr)
        return 1
    settings = server_settings(args)
    ways = [Way(name, accept) for name, accept in _WAYS.items()]
    with run_server([*INSTANT, "--data", str(args.data)], settings) as server:
        server.wait_until_ready()
        _measure(server, ways, turns, args)
    print_table("/ask without its model, milliseconds", [_row(part, ways) for part in PARTS])
    for way in ways:
        num_turns = args.runs * args.requests
        print(
            f"{way.name}: {way.num_main / num_turns:.0%} of the turns took the main path, the rest "
            f"the fallback's; {way.num_checked / num_turns:.1f} sentences a turn were compared "
            "with bad examples"
        )
    named = {name: getattr(args, name) for name in ("requests", "warm_up", "runs")}
    write_report(
        args.json, "http", named | shown_settings(settings), [_figures(way) for way in ways]
    )
    if args.plot:
        _draw(args.plot, ways)
    return int(not all(way.is_good for way in ways))


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    for name, least in (("runs", 1), ("requests", 1), ("warm_up", 0)):
        if (value := getattr(args, name)) < least:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}; it must be {least} or more")


def _measure(
    server: Server, ways: Sequence[Way], turns: Sequence[TurnLabel], args: argparse.Namespace
) -> None:
    """The ways in turns, after a run to warm up."""
    with Progress(transient=True) as progress:
        total = len(ways) * (args.warm_up + args.runs * args.requests)
        task = progress.add_task("requests", total=total)
        for at in range(args.runs + 1):
            count = args.requests if at else args.warm_up
            for way in ways:
                bodies = endless_bodies(
                    turns, f"{way.name} {at}", seed=_SEED, max_tokens=MAX_TOKENS
                )
                walls, answers = [], []
                for body in islice(bodies, count):
                    start = time.perf_counter()
                    answer = server.post("/ask", body, way.accept)
                    walls.append((time.perf_counter() - start) * 1e3)
                    answers.append(b'"path":"main"' in answer)
                    progress.advance(task)
                records = msgspec.json.decode(server.get(RECORDS), type=list[Record])
                if at:
                    _add_run(way, walls, records)
                    way.num_main += sum(answers)


def _add_run(way: Way, walls: Sequence[float], records: Sequence[Record]) -> None:
    if len(records) != len(walls):
        raise ServerFailed(f"{len(walls)} requests were sent, but {len(records)} were recorded")
    pairs = list(zip(walls, records, strict=True))
    for part, spent in PARTS.items():
        times = [spent(wall, record) for wall, record in pairs]
        way.runs[part].append(np.quantile(times, [0.5, 0.95]).tolist())
    way.num_checked += sum(record.num_checked for record in records)


def _row(part: str, ways: Sequence[Way]) -> dict[str, object]:
    row: dict[str, object] = {"what": part}
    for way in ways:
        for name, value in zip(("p50", "p95"), way.middle(part), strict=True):
            row[f"{way.name} {name}"] = f"{value:.3f}"
    row["bounds (p50, p95)"] = "-"
    if part == OVERHEAD:
        kept = "kept" if all(way.is_good for way in ways) else "MISSED"
        row["bounds (p50, p95)"] = f"<= {MAX_P50_MS}, <= {MAX_P95_MS}: {kept}"
    return row


def _figures(way: Way) -> dict[str, object]:
    spans = {
        part: {"p50_ms": [run[0] for run in runs], "p95_ms": [run[1] for run in runs]}
        for part, runs in way.runs.items()
    }
    counts = {"num_main_path": way.num_main, "num_sentences_checked": way.num_checked}
    return {"name": way.name, "is_good": way.is_good} | counts | spans


def _draw(path: Path, ways: Sequence[Way]) -> None:
    """p50 as bars, p95 as ticks, and the bounds of the overhead."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    height = 0.8 / len(ways)
    for number, (way, colour) in enumerate(zip(ways, ("#3b82c4", "#7fb069"), strict=True)):
        places = [at + number * height for at in range(len(PARTS))]
        p50, p95 = zip(*(way.middle(part) for part in PARTS), strict=True)
        axes.barh(places, p50, height, color=colour, label=f"{way.name}, p50 (tick: p95)")
        axes.plot(p95, places, "|", color="black", markersize=10)
    for bound in (MAX_P50_MS, MAX_P95_MS):
        axes.axvline(bound, color="#d9822b", linewidth=0.8)
    axes.set_yticks([at + height / 2 for at in range(len(PARTS))], list(PARTS))
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds (lines: bounds of the overhead's p50 and p95)")
    axes.legend()
    figure.savefig(path)
