"""`persona bench soak`: more load than a server can bear, and bad manners; nothing may break.

A real server process is asked at `--over` times what it can answer: by players who wait for JSON or
listen to streams, who send a turn twice, who leave in the middle, who read slowly, and who send
what is no request; meanwhile world and bundle are reloaded. Every well-formed request must get one
valid answer, and memory must stay.
"""

import argparse
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import msgspec
import numpy as np
from rich.progress import Progress

from bench.load_loops import ClosedLoop, OpenLoop, Players, num_completed
from bench.load_targets import ServerTarget
from bench.memory import metrics_of, resident_bytes
from bench.players import conversations_of, read_players
from bench.report import check_range, print_table, write_report
from bench.server_process import (
    SERVE,
    Server,
    ServerFailed,
    add_server,
    run_server,
    server_settings,
    shown_settings,
)
from bench.soak_players import SHARES, Crowd, Seen
from heads.bundle import MANIFEST
from server.errors import INTERNAL
from train.dataset import DatasetError, TurnLabel

MAX_GROWTH = 0.05
"""Upper bound of memory's growth from the first third to the last."""
SLACK = 1.1
"""Of the deadline, for a state to be told under full load."""
_MIN_READINGS = 3
"""Of memory, in each third."""
_HELD = {"persona_requests_running": "running", "persona_requests_waiting": "waiting"}


@dataclass(slots=True)
class Soak:
    """What came of it."""

    per_minute: float = 0.0
    """Turns a minute that the server can answer."""
    seen: list[Seen] = field(default_factory=list)
    num_reloads: int = 0
    server_faults: list[str] = field(default_factory=list)
    """A reload that failed, or what the server broke off: the soak ends with it."""
    memory: list[int] = field(default_factory=list)
    """Bytes resident, before each reload and at the end."""
    held: dict[str, float] = field(default_factory=dict)
    """Requests that are still in the server when all have been answered."""
    num_internal: int = 0
    """Errors of the server's own."""

    @property
    def faults(self) -> list[str]:
        """Everything that must not happen, in words."""
        found = [fault for each in self.seen for fault in each.faults]
        turns = Counter(each.turn_id for each in self.seen if each.turn_id)
        found += [f"turn {id_} was told {n} times" for id_, n in turns.items() if n > 1]
        found += self.server_faults
        found += [f"{n:g} requests are still {name}" for name, n in self.held.items() if n]
        if self.num_internal:
            found.append(f"{self.num_internal} errors of the server's own")
        return found

    def state_s(self, quantile: float) -> float:
        """Seconds to the state, of those who listened to streams."""
        times = [each.state_s for each in self.seen if each.state_s is not None]
        return float(np.quantile(times, quantile)) if times else float("nan")

    @property
    def growth(self) -> float | None:
        """Of the least memory, from the first third of the readings to the last, as a share.

        The least, because a bundle that turns in flight still hold is in memory beside its
        successor: readings between two quick reloads say how busy the server is, not what it keeps.
        So a third must have three; None where there are too few.
        """
        third = len(self.memory) // 3
        if third < _MIN_READINGS:
            return None
        return min(self.memory[-third:]) / min(self.memory[:third]) - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the soak."""
    add_server(parser)
    add = parser.add_argument
    add("--seconds", type=float, default=1_200.0, help="of load (default: 1200)")
    add("--over", type=float, default=1.5, help="times the capacity (default: 1.5)")
    add("--measure", type=float, default=20.0, help="seconds to find the capacity (default: 20)")
    add("--reload-every", type=float, default=120.0, help="seconds (default: 120)")
    add("--deadline-ms", type=int, default=10_000, help="of each turn (default: 10000)")
    add("--max-tokens", type=int, default=32, help="of each reply (default: 32)")
    add("--seed", type=int, default=0)
    add("--json", type=Path, metavar="FILE", help="write settings, machine and figures here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Soaks and prints; 1 if anything happened that must not, or the arguments are wrong."""
    try:
        check(args)
        turns = read_players(args.data)
    except (DatasetError, ValueError) as error:
        print(f"persona bench soak: {error}", file=sys.stderr)
        return 1
    settings = msgspec.structs.replace(server_settings(args), deadline_ms=args.deadline_ms)
    soak = Soak()
    with tempfile.TemporaryDirectory() as scratch:
        link = Path(scratch) / "bundle"
        bundles = [settings.bundle.resolve(), _twin(settings.bundle, Path(scratch) / "twin")]
        link.symlink_to(bundles[0])
        served = msgspec.structs.replace(settings, bundle=link)
        with run_server(SERVE, served) as server:
            server.wait_until_ready()
            try:
                soak.per_minute = _capacity(server, turns, args)
                _soak(server, turns, args, soak, _Reloads(link, bundles))
            except ServerFailed as error:
                soak.server_faults.append(str(error))
    _print(soak, args)
    names = ("seconds", "over", "reload_every", "deadline_ms", "max_tokens", "seed")
    chosen = {name: getattr(args, name) for name in names} | shown_settings(settings)
    write_report(args.json, "soak", chosen, _figures(soak))
    for fault in soak.faults[:20]:
        print(fault, file=sys.stderr)
    is_late = soak.state_s(0.99) > args.deadline_ms / 1e3 * SLACK
    return int(bool(soak.faults) or is_late or (soak.growth or 0.0) > MAX_GROWTH)


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be soaked with."""
    for name, low, high in (
        ("seconds", 1, 86_400),
        ("over", 0.1, 10),
        ("measure", 1, 600),
        ("reload_every", 0.5, 86_400),
        ("deadline_ms", 100, 600_000),
        ("max_tokens", 1, 512),
    ):
        check_range(f"--{name.replace('_', '-')}", getattr(args, name), low, high)


def _twin(bundle: Path, folder: Path) -> Path:
    """The same bundle by another name, so that a reload has to load it."""
    shutil.copytree(bundle.resolve(), folder)
    manifest = msgspec.json.decode((bundle / MANIFEST).read_bytes())
    manifest["name"] += "-twin"
    (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    return folder


@dataclass(slots=True)
class _Reloads:
    """Lets the server load the one bundle and the other."""

    link: Path
    bundles: Sequence[Path]
    num: int = 0

    def run(self, server: Server, soak: Soak) -> None:
        """One reload, memory read before it."""
        self.num += 1
        new = self.link.with_name("next")
        new.symlink_to(self.bundles[self.num % len(self.bundles)])
        new.replace(self.link)
        _let_go(server)
        try:
            soak.memory.append(resident_bytes(server.process.pid))
            server.post("/admin/reload", b"")
            soak.num_reloads += 1
        except ServerFailed as error:
            soak.server_faults.append(f"a reload failed: {error}")


def _capacity(server: Server, turns: Sequence[TurnLabel], args: argparse.Namespace) -> float:
    """Turns a minute of four players who wait for their answers. Raises ServerFailed."""
    target = ServerTarget(server, args.max_tokens)
    players = Players(conversations_of(turns, args.seed))
    ClosedLoop(4).run(target, players, args.measure / 4)
    start = time.monotonic()
    outcomes = ClosedLoop(4).run(target, players, args.measure)
    seconds: float = args.measure
    if not (num := num_completed(outcomes, start, seconds)):
        raise ServerFailed(f"the server completed no turn in {seconds:g} s")
    return num / seconds * 60


def _soak(
    server: Server,
    turns: Sequence[TurnLabel],
    args: argparse.Namespace,
    soak: Soak,
    reloads: _Reloads,
) -> None:
    load = OpenLoop(soak.per_minute * args.over, args.seed)
    num_turns = len(load.arrivals(args.seconds))
    drawn = Random(args.seed).choices(list(SHARES), list(SHARES.values()), k=num_turns)
    manners = [*SHARES, *drawn][:num_turns]  # each once, however short the soak
    players = Players(conversations_of(turns, args.seed + 1))
    is_over = threading.Event()

    def reload_again() -> None:
        while not is_over.wait(args.reload_every):
            reloads.run(server, soak)

    reloading = threading.Thread(target=reload_again)
    with Progress(transient=True) as progress:
        task = progress.add_task("load", total=num_turns)
        crowd = Crowd(
            server.connection.port,
            manners,
            args.max_tokens,
            args.deadline_ms / 1e3 * 3,
            lambda: progress.advance(task),
        )
        reloading.start()
        try:
            soak.seen = load.run(crowd, players, args.seconds)
        finally:
            is_over.set()
            reloading.join()
    soak.memory.append(resident_bytes(server.process.pid))
    _let_go(server)
    for sample in metrics_of(server):
        if sample.name in _HELD:
            soak.held[_HELD[sample.name]] = sample.value
        elif sample.name == "persona_errors_total" and sample.labels["code"] == INTERNAL.code:
            soak.num_internal = int(sample.value)


def _let_go(server: Server) -> None:
    """The server closes a connection that is idle; the next request opens another."""
    server.connection.close()


def _print(soak: Soak, args: argparse.Namespace) -> None:
    rows = []
    for manner in SHARES:
        own = [each for each in soak.seen if each.manner == manner]
        ends = Counter(each.end for each in own)
        rows.append({"who": manner, "requests": len(own), "ends": _in_words(ends)})
    print_table(f"{args.seconds:g} s at {args.over:g} times {soak.per_minute:.0f} a minute", rows)
    p50, p99 = (soak.state_s(quantile) for quantile in (0.5, 0.99))
    growth = "unknown, too few reloads" if soak.growth is None else f"{soak.growth:+.1%}"
    memory = [f"{num_bytes / 1e6:.0f} MB" for num_bytes in soak.memory] or ["unknown"]
    print(
        f"time to state p50 {p50:.2f} s, p99 {p99:.2f} s (deadline {args.deadline_ms / 1e3:g} s); "
        f"{soak.num_reloads} reloads; memory {memory[0]} at first, {memory[-1]} at last, "
        f"growth of the thirds {growth}; {len(soak.faults)} faults"
    )


def _in_words(ends: Counter[str]) -> str:
    return ", ".join(f"{end} {num}" for end, num in ends.most_common())


def _figures(soak: Soak) -> dict[str, object]:
    return {
        "turns_per_minute": soak.per_minute,
        "ends": {
            manner: Counter(each.end for each in soak.seen if each.manner == manner)
            for manner in SHARES
        },
        "state_s": {
            name: soak.state_s(q) for name, q in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
        "num_reloads": soak.num_reloads,
        "memory": soak.memory,
        "growth": soak.growth,
        "faults": soak.faults,
    }
