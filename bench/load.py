"""`persona bench load`: turns a minute and waiting times, with 1 to 16 players at once.

A real server process on loopback is asked by players of a dataset's validation split, in closed and
in open loop; peers on the same weights take turns with it. Beside them, on the engine alone: what a
long prompt that arrives does to the rhythm of a reply that runs.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import median

import msgspec
import numpy as np
from rich.progress import Progress

from bench.fairness import Gaps, measure_gaps
from bench.load_loops import ClosedLoop, Load, OpenLoop, Players, num_completed
from bench.load_peers import LlamaServer, open_peers
from bench.load_targets import OURS, Kind, Outcome, ServerTarget, Target
from bench.peer_llama_server import LlamaServerPeer
from bench.peer_two_pass import TwoPassPeer
from bench.players import long_conversations, make_prompts, read_players
from bench.raw_loops import EndlessModel
from bench.report import Ratio, add_output, check_range, print_table, ratio_of, write_report
from bench.server_process import (
    SERVE,
    ServerFailed,
    add_server,
    run_server,
    server_settings,
    shown_settings,
)
from heads.bundle import load_bundle
from runtime.step_budget import LONGEST_STALL_S
from server.loaded import open_engine
from server.settings import Settings
from train.dataset import DatasetError, TurnLabel

MAX_STRETCH = 3.0
"""Upper bound of the p95 gap while a long prompt is read, over the quiet median."""
MAX_GAP_S = 2 * LONGEST_STALL_S
"""Upper bound of the longest such gap: what the engine aims at, and a machine that wavers."""
MIN_TIMES = {TwoPassPeer.name: 3.0, LlamaServerPeer.name: 1.5}
"""Lower bounds of our turns a minute over a peer's, with COMPARED sessions at once."""
COMPARED = ClosedLoop(8).name
_REPLY_PROMPT = 64
_SPANS: dict[str, Callable[[Outcome], float | None]] = {
    "state": lambda outcome: outcome.state_s,
    "first token": lambda outcome: outcome.first_token_s,
    "total": lambda outcome: outcome.total_s,
}


@dataclass(slots=True)
class Found:
    """What one load on one target came to, over all runs."""

    target: str
    load: str
    per_minute: list[float] = field(default_factory=list)
    """Completed turns a minute, one figure a run."""
    outcomes: list[Outcome] = field(default_factory=list)

    def times(self, peer: "Found") -> Ratio:
        """Our turns a minute over those of a peer under the same load."""
        return ratio_of(self.per_minute, peer.per_minute)

    def num(self, kind: Kind) -> int:
        """Turns of which that became."""
        return sum(outcome.kind is kind for outcome in self.outcomes)

    def milliseconds(self, span: str) -> tuple[float, float] | None:
        """p50 and p95 over the turns that took the main path; None if there was none."""
        times = [_SPANS[span](each) for each in self.outcomes if each.kind is Kind.MAIN]
        known = [seconds * 1e3 for seconds in times if seconds is not None]
        if not known:
            return None
        p50, p95 = np.quantile(known, [0.5, 0.95]).tolist()
        return p50, p95


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add_server(parser)
    add = parser.add_argument
    add("--sessions", type=int, nargs="*", default=[1, 2, 4, 8, 16], help="closed loops")
    add("--rates", type=float, nargs="*", default=[30, 90], help="open loops: turns a minute")
    add("--seconds", type=float, default=20.0, help="of each loop (default: 20)")
    add("--turns", type=int, default=12, help="of each conversation (default: 12)")
    add("--max-tokens", type=int, default=32, help="of each reply (default: 32)")
    add("--newcomer", type=int, default=1_000, help="tokens of the prompt that arrives")
    add("--seed", type=int, default=0, help="of conversations and arrivals")
    add("--swap-mb", type=int, metavar="MB", help="one more server of ours, with PERSONA_SWAP_MB")
    add("--peers", nargs="*", choices=["two-pass"], default=[], help="who takes turns with us")
    add("--llama-server", type=Path, metavar="PROGRAM", help="one more peer")
    add("--llama-threads", type=int, metavar="N", help="of each of its two (default: all cores)")
    add_output(parser, num_runs=3)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if a bound is missed, a turn failed, or the arguments are wrong."""
    try:
        check(args)
        turns = read_players(args.data)
    except (DatasetError, ValueError) as error:
        print(f"persona bench load: {error}", file=sys.stderr)
        return 1
    settings = server_settings(args)
    gaps = fairness(settings, turns, args.newcomer, args.runs)
    stretch = ratio_of([each.busy_p95 for each in gaps], [each.quiet_median for each in gaps])
    with ExitStack() as stack:
        targets = _open_targets(args, settings, stack)
        found = measure(targets, turns, args)
    pairs = _pairs(found)
    if found:
        print_table("turns under load, milliseconds p50 / p95", [_row(each) for each in found])
    if pairs:
        print_table("our turns a minute over a peer's", [_pair_row(*pair) for pair in pairs])
    _print_fairness(gaps, stretch, args.newcomer)
    names = ("sessions", "rates", "seconds", "turns", "max_tokens", "newcomer", "seed", "runs")
    chosen = {name: getattr(args, name) for name in names} | shown_settings(settings)
    chosen["peers"] = [target.name for target in targets[1:]]
    figures = {
        "loads": [_figures(each) for each in found],
        "times": [
            {"peer": peer.target, "load": peer.load, "times": ours.times(peer)}
            for ours, peer in pairs
        ],
        "fairness": {
            "stretch": stretch,
            "bound": MAX_STRETCH,
            "longest_bound_s": MAX_GAP_S,
            "runs": gaps,
        },
    }
    write_report(args.json, "load", chosen, figures)
    if args.plot:
        _draw(args.plot, found)
    failed = [each for one in found for each in one.outcomes if each.kind is Kind.FAILED]
    if failed:
        print(f"{len(failed)} turns failed; the first: {failed[0].why}", file=sys.stderr)
    is_behind = any(not is_ahead(*pair) for pair in pairs)
    is_uneven = stretch.high > MAX_STRETCH or longest_gap(gaps) > MAX_GAP_S
    return int(is_uneven or is_behind or bool(failed))


def _open_targets(args: argparse.Namespace, settings: Settings, stack: ExitStack) -> list[Target]:
    """Our server, and whoever takes turns with it."""
    servers = {OURS: settings}
    if args.swap_mb is not None:
        swapping = msgspec.structs.replace(settings, swap_mb=args.swap_mb)
        servers[f"{OURS}, swap space {args.swap_mb} MB"] = swapping
    targets = list[Target]()
    for name, chosen in servers.items():
        server = stack.enter_context(run_server(SERVE, chosen))
        server.wait_until_ready()
        targets.append(ServerTarget(server, args.max_tokens, name))
    peers = open_peers(
        settings,
        LlamaServer(args.llama_server, args.llama_threads) if args.llama_server else None,
        has_two_passes=bool(args.peers),
        num_sessions=max(args.sessions, default=1),
        max_tokens=args.max_tokens,
    )
    return [*targets, *stack.enter_context(peers)]


def is_ahead(ours: Found, peer: Found) -> bool:
    """Whether the median keeps the bound, where there is one for this load."""
    bound = _bound(peer)
    return bound is None or ours.times(peer).median >= bound


def _bound(peer: Found) -> float | None:
    return MIN_TIMES.get(peer.target) if peer.load == COMPARED else None


def _pairs(found: Sequence[Found]) -> list[tuple[Found, Found]]:
    ours = {each.load: each for each in found if each.target == OURS}
    return [(ours[each.load], each) for each in found if each.target != OURS]


def _pair_row(ours: Found, peer: Found) -> dict[str, object]:
    bound = _bound(peer)
    kept = _kept(is_ahead(ours, peer))
    return {
        "peer": peer.target,
        "load": peer.load,
        "times as many": str(ours.times(peer)),
        "bound": "-" if bound is None else f">= {bound:g}: {kept}",
    }


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that nothing can be measured with."""
    check_range("--runs", args.runs, 1, 1_000)
    for count in args.sessions:
        check_range("--sessions", count, 1, 1_000)
    for rate in args.rates:
        check_range("--rates", rate, 0.1, 100_000)
    check_range("--seconds", args.seconds, 0.1, 86_400)
    check_range("--turns", args.turns, 1, 10_000)
    check_range("--max-tokens", args.max_tokens, 1, 512)
    check_range("--newcomer", args.newcomer, 8, 100_000)
    if args.swap_mb is not None:
        check_range("--swap-mb", args.swap_mb, 1, 1_000_000)
    if args.llama_threads is not None:
        check_range("--llama-threads", args.llama_threads, 1, 1_024)


def fairness(
    settings: Settings, turns: Sequence[TurnLabel], num_newcomer: int, num_runs: int
) -> list[Gaps]:
    """The gaps of `num_runs` runs, after one to warm up, on the engine as it serves."""
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    model = EndlessModel(bundle.model)
    try:
        # no prompt twice: it would not be read again
        replies = make_prompts(model, turns, num_runs + 1, _REPLY_PROMPT)
        newcomers = make_prompts(model, turns[::-1], num_runs + 1, num_newcomer)
        with open_engine(settings, bundle, model) as engine:
            pairs = zip(replies, newcomers, strict=True)
            return [measure_gaps(engine, reply, newcomer) for reply, newcomer in pairs][1:]
    finally:
        model.close()


def measure(
    targets: Sequence[Target], turns: Sequence[TurnLabel], args: argparse.Namespace
) -> list[Found]:
    """Every load on every target, in turns, after a line to each NPC. Raises ServerFailed."""
    found: dict[tuple[str, str], Found] = {}
    players = {
        target.name: Players(long_conversations(turns, args.turns, args.seed)) for target in targets
    }
    for target in targets:
        _warm_up(target, turns)
    with Progress(transient=True, auto_refresh=False) as progress:
        task = progress.add_task("loads", total=args.runs)
        for at in range(args.runs):
            loads: list[Load] = [
                *(ClosedLoop(count) for count in args.sessions),
                *(OpenLoop(rate, args.seed + at) for rate in args.rates),
            ]
            for load, target in product(loads, targets):
                key = target.name, load.name
                start = time.monotonic()
                outcomes = load.run(target, players[target.name], args.seconds)
                completed = num_completed(outcomes, start, args.seconds)
                one = found.setdefault(key, Found(*key))
                one.per_minute.append(completed / args.seconds * 60)
                one.outcomes += outcomes
            progress.update(task, advance=1, refresh=True)
    return list(found.values())


def _warm_up(target: Target, turns: Sequence[TurnLabel]) -> None:
    """A line to each NPC: a server that runs has met them."""
    for npc_id, line in {turn.npc_id: turn for turn in turns}.items():
        outcome = target.turn(f"warm-up with {npc_id}", line, is_first=True)
        if outcome.kind is Kind.FAILED:
            raise ServerFailed(f"{target.name} does not answer for {npc_id!r}: {outcome.why}")


def _row(found: Found) -> dict[str, object]:
    spans = {span: found.milliseconds(span) for span in _SPANS}
    return {
        "target": found.target,
        "load": found.load,
        "turns/min": f"{median(found.per_minute):.1f}",
        **{span: "-" if ms is None else f"{ms[0]:.0f} / {ms[1]:.0f}" for span, ms in spans.items()},
        "turns": len(found.outcomes),
        **{kind.value: found.num(kind) for kind in Kind if kind is not Kind.MAIN},
    }


def _figures(found: Found) -> dict[str, object]:
    return {
        "target": found.target,
        "load": found.load,
        "turns_per_minute": found.per_minute,
        "milliseconds": {span: found.milliseconds(span) for span in _SPANS},
        "num": {kind.value: found.num(kind) for kind in Kind},
    }


def longest_gap(gaps: Sequence[Gaps]) -> float:
    """Seconds, the median of the runs."""
    return median(each.longest for each in gaps)


def _print_fairness(gaps: Sequence[Gaps], stretch: Ratio, num_newcomer: int) -> None:
    names = ("quiet_median", "busy_p95")
    quiet, busy = (median(getattr(g, name) for g in gaps) * 1e3 for name in names)
    longest, newcomer = longest_gap(gaps), median(g.newcomer_s for g in gaps)
    print(
        f"a running reply while a prompt of {num_newcomer} tokens arrives: p95 gap {busy:.1f} ms, "
        f"longest {longest * 1e3:.0f} ms (<= {MAX_GAP_S * 1e3:.0f}: "
        f"{_kept(longest <= MAX_GAP_S)}), quiet median {quiet:.1f} ms, ratio {stretch} "
        f"(high end <= {MAX_STRETCH:g}: {_kept(stretch.high <= MAX_STRETCH)}); the newcomer's "
        f"first token after {newcomer:.2f} s"
    )


def _kept(is_kept: bool) -> str:
    return "kept" if is_kept else "MISSED"


def _draw(path: Path, found: Sequence[Found]) -> None:
    """Turns a minute, and the times of a turn: p50 as bars, p95 as ticks."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(11, 0.4 * len(found) + 1.5), layout="constrained")
    rates, times = figure.subplots(1, 2, sharey=True)
    places = range(len(found))
    rates.barh(places, [median(each.per_minute) for each in found], color="#3b82c4")
    rates.set_yticks(places, [f"{each.target}, {each.load}" for each in found])
    rates.set_xlabel("completed turns a minute")
    for number, (span, colour) in enumerate(
        zip(_SPANS, ("#3b82c4", "#d9822b", "#7fb069"), strict=True)
    ):
        for at, each in enumerate(found):
            if (ms := each.milliseconds(span)) is not None:
                place, label = at + 0.25 * (number - 1), span if at == 0 else None
                times.barh(place, ms[0], 0.25, color=colour, label=label)
                times.plot(ms[1], place, "|", color="black", markersize=8)
    times.set_xlabel("milliseconds of a turn: p50, tick p95")
    times.legend()
    rates.invert_yaxis()
    figure.savefig(path)
