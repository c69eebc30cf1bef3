"""`persona bench memory`: whether a server's memory grows as players go on talking.

A real server process answers turn after turn of many sessions; along the way its resident set is
read from /proc, and from /metrics what it holds. At the end its memory is compared with what it was
once all was warm.
"""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from rich.progress import Progress

from bench.asks import session_bodies
from bench.players import read_players
from bench.report import print_table, write_report
from bench.server_process import (
    SERVE,
    Server,
    ServerFailed,
    add_server,
    run_server,
    server_settings,
    shown_settings,
)
from server.cli import INTERRUPTED
from server.schemas import Answer
from train.dataset import DatasetError, TurnLabel

MAX_GROWTH = 0.03
"""Upper bound of growth after the warm-up, as a share of what was resident then."""
NUM_READINGS = 100
HELD = ("conversations", "residents", "kv_cells_resident", "kv_cells_free", "swapped")
"""Metrics, without `persona_`, of what is kept and bounded."""
MEGABYTE = 1e6


@dataclass(frozen=True, slots=True)
class Reading:
    """Bytes resident after so many turns, and what the server held then."""

    num_turns: int
    num_bytes: int
    held: dict[str, int]


@dataclass(slots=True)
class Watch:
    """What was seen so far, reading by reading, from the idle server on."""

    readings: list[Reading]
    warm: Reading | None = None
    num_main: int = 0
    """Turns that took the main path."""
    cached: list[float] = field(default_factory=list)
    """Share of each prompt that need not be evaluated."""
    seconds: list[float] = field(default_factory=list)
    """Of each turn, as its player sees it."""
    is_interrupted: bool = False

    @property
    def last(self) -> Reading:
        """The latest reading."""
        return self.readings[-1]

    @property
    def growth(self) -> float | None:
        """Since the warm-up, as a share; None before any turn after it."""
        if self.warm is None or self.last.num_turns <= self.warm.num_turns:
            return None
        return self.last.num_bytes / self.warm.num_bytes - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add_server(parser)
    add = parser.add_argument
    add("--turns", type=int, default=2_000, help="of all sessions together (default: 2000)")
    add("--sessions", type=int, default=200, help="that speak in turn (default: 200)")
    add("--warm-up", type=int, default=200, help="turns before growth counts (default: 200)")
    add("--tokens", type=int, default=8, help="of each reply, at most (default: 8)")
    add("--json", type=Path, metavar="FILE", help="write settings, machine and figures here")
    add("--plot", type=Path, metavar="PNG", help="draw the figures here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if the bound is missed or the arguments are wrong."""
    try:
        check(args)
        turns = read_players(args.data)
    except (DatasetError, ValueError) as error:
        print(f"persona bench memory: {error}", file=sys.stderr)
        return 1
    settings = server_settings(args)
    with run_server(SERVE, settings) as server:
        server.wait_until_ready()
        seen = Watch([_read(server, 0)])
        try:
            _watch(server, seen, turns, args)
        except KeyboardInterrupt:
            seen.is_interrupted = True
    named = {name: getattr(args, name) for name in ("turns", "sessions", "warm_up", "tokens")}
    shown = named | shown_settings(settings)
    _print(seen, args, shown)
    write_report(args.json, "memory", shown, _figures(seen))
    if args.plot:
        _draw(args.plot, seen)
    if seen.is_interrupted:
        print("interrupted; the figures are those until then", file=sys.stderr)
        return INTERRUPTED
    return int(seen.growth is None or seen.growth > MAX_GROWTH)


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    if not Path("/proc/self/statm").exists():
        raise ValueError("memory is read from /proc, which this system has not; use Linux")
    for name in ("sessions", "warm_up", "tokens"):
        if (value := getattr(args, name)) < 1:
            option = name.replace("_", "-")
            raise ValueError(f"--{option} is {value}; it must be 1 or more")
    if args.turns <= args.warm_up:
        raise ValueError(
            f"--turns is {args.turns}; it must be more than --warm-up, which is {args.warm_up}"
        )


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM, shared pages included (proc(5), statm).

    Raises ServerFailed when it has ended.
    """
    try:
        num_pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except OSError as error:
        raise ServerFailed(f"process {pid} has ended: {error}") from error
    return int(num_pages) * resource.getpagesize()


def metrics_of(server: Server) -> list[Sample]:
    """What `/metrics` tells. Raises ServerFailed."""
    families = text_string_to_metric_families(server.get("/metrics").decode())
    return [sample for family in families for sample in family.samples]


def held_by(server: Server) -> dict[str, int]:
    """The server's own counts of what it keeps. Raises ServerFailed."""
    values = {sample.name: sample.value for sample in metrics_of(server)}
    return {name: int(values[f"persona_{name}"]) for name in HELD}


def _read(server: Server, num_turns: int) -> Reading:
    return Reading(num_turns, resident_bytes(server.process.pid), held_by(server))


def _watch(
    server: Server, seen: Watch, turns: Sequence[TurnLabel], args: argparse.Namespace
) -> None:
    """Ask all turns, and read memory a hundred times on the way."""
    bodies = session_bodies(turns, args.sessions, max_tokens=args.tokens)
    every = max(1, args.turns // NUM_READINGS)
    with Progress(transient=True) as progress:
        task = progress.add_task("turns", total=args.turns)
        for number, body in zip(range(1, args.turns + 1), bodies, strict=False):
            start = time.perf_counter()
            answer = server.post("/ask", body)
            seen.seconds.append(time.perf_counter() - start)
            _note_answer(seen, answer)
            if number % every == 0 or number in (args.warm_up, args.turns):
                seen.readings.append(_read(server, number))
            if number == args.warm_up:
                seen.warm = seen.last
            size = f"{seen.last.num_bytes / MEGABYTE:.0f} MB"
            progress.update(task, advance=1, description=f"turns, {size}")


def _note_answer(seen: Watch, answer: bytes) -> None:
    meta = msgspec.json.decode(answer, type=Answer).meta
    seen.num_main += meta.path == "main"
    seen.cached.append(meta.usage.cached_tokens / max(1, meta.usage.prompt_tokens))


def _print(seen: Watch, args: argparse.Namespace, settings: dict[str, object]) -> None:
    kinds = [("idle", seen.readings[0]), ("warm", seen.warm), ("last", seen.last)]
    rows: list[dict[str, object]] = [
        {
            "when": kind,
            "turns": reading.num_turns,
            "resident MB": f"{reading.num_bytes / MEGABYTE:.1f}",
            **{name.replace("_", " "): count for name, count in reading.held.items()},
        }
        for kind, reading in kinds
        if reading is not None
    ]
    print_table(f"memory of a server, {args.sessions} sessions", rows)
    growth = seen.growth
    if growth is None:
        print(f"no turn after the warm-up of {args.warm_up}: growth unknown")
    else:
        kept = "kept" if growth <= MAX_GROWTH else "MISSED"
        print(f"growth after the warm-up: {growth:+.2%} (bound: <= {MAX_GROWTH:.0%}: {kept})")
    num_turns = len(seen.cached)
    if num_turns:
        later = slice(args.warm_up if num_turns > args.warm_up else 0, None)
        cached = sum(seen.cached[later]) / len(seen.cached[later])
        print(
            f"{seen.num_main} of {num_turns} turns took the main path; after the warm-up one took "
            f"{median(seen.seconds[later]):.2f} s in the median, and {cached:.0%} of the average "
            "prompt need not be evaluated"
        )
    bounds = ("n_conversations", "n_residents", "n_ctx", "swap_mb")
    print("the server's bounds: " + ", ".join(f"{name} {settings[name]}" for name in bounds))


def _figures(seen: Watch) -> dict[str, object]:
    return {
        "readings": seen.readings,
        "warm": seen.warm,
        "growth": seen.growth,
        "greatest_growth": MAX_GROWTH,
        "num_main_path": seen.num_main,
        "cached_share": seen.cached,
        "seconds": seen.seconds,
        "is_interrupted": seen.is_interrupted,
    }


def _draw(path: Path, seen: Watch) -> None:
    """Resident memory by turns, and the bound."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    turns = [reading.num_turns for reading in seen.readings]
    axes.plot(turns, [r.num_bytes / MEGABYTE for r in seen.readings], color="#3b82c4")
    if seen.warm is not None:
        most = seen.warm.num_bytes * (1 + MAX_GROWTH) / MEGABYTE
        axes.hlines(most, seen.warm.num_turns, turns[-1], color="#d9822b", label="bound")
        axes.legend()
    axes.set_ylim(0, 1.1 * max(r.num_bytes for r in seen.readings) / MEGABYTE)
    axes.set_xlabel("turns")
    axes.set_ylabel("resident MB")
    figure.savefig(path)
