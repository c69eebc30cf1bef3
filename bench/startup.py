"""`persona bench startup`: how soon a restarted server answers, and how much later than a warm one.

A real server process is started again and again. Each time one turn is asked first, then a few
others of the same NPC, and last the turn that the next process will be asked first: so every turn
is read once cold and once warm, the same tokens, by neighbouring runs. What the server keeps on
disk (bundle, world index, NPC prefixes) stays there, as at any restart; a start before all others
fills it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
from rich.progress import Progress

from bench.asks import make_body
from bench.players import read_players
from bench.report import Ratio, add_output, print_table, ratio_of, write_report
from bench.server_process import (
    SERVE,
    Server,
    add_server,
    run_server,
    server_settings,
    shown_settings,
)
from bench.turn_script import lines_of
from server.schemas import Answer
from server.settings import Settings
from train.dataset import DatasetError, TurnLabel

MAX_RATIO = 1.3
"""Upper bound of the first turn's time to state over that of the same turn when warm."""
NUM_BETWEEN = 4
"""Turns between the first and the last of a process."""
NUM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer: its times in milliseconds, and how much of its prompt was in the KV cache.

    `state_ms` counts from the engine's queue and is None where there was no state; `answer_ms` is
    the client's, for the state and a few words.
    """

    state_ms: float | None
    answer_ms: float
    num_prompt: int
    num_cached: int

    @property
    def num_new(self) -> int:
        """Tokens of the prompt that were evaluated."""
        return self.num_prompt - self.num_cached


@dataclass(frozen=True, slots=True)
class Start:
    """One process: seconds until it was ready, its first turn, and its last."""

    ready_s: float
    cold: Turn
    warm: Turn


@dataclass(frozen=True, slots=True)
class Pair:
    """One turn as a process's first, and as the last of the process before."""

    ready_s: float
    cold_ms: float
    warm_ms: float
    cold: Turn
    warm: Turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add_server(parser)
    add = parser.add_argument
    add("--npc", default="sora", help="who is spoken to (default: sora)")
    add("--lang", choices=("ko", "en"), default="ko", help="in which language (default: ko)")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints; 1 if the bound is missed or the arguments are wrong."""
    try:
        if args.runs < 1:
            raise ValueError(f"--runs is {args.runs}; it must be 1 or more")
        lines = _distinct(lines_of(read_players(args.data), args.npc, args.lang))
        _check_enough(len(lines), args.runs)
        settings = server_settings(args)
        pairs = _measure(lines, settings, args)
    except (DatasetError, ValueError) as error:
        print(f"persona bench startup: {error}", file=sys.stderr)
        return 1
    ratio = ratio_of([pair.cold_ms for pair in pairs], [pair.warm_ms for pair in pairs])
    is_good = ratio.median <= MAX_RATIO
    bound = f"<= {MAX_RATIO}: {'kept' if is_good else 'MISSED'}"
    rows: list[dict[str, object]] = [
        *({"what": what, "median [95%]": x, "bound": "-"} for what, x in _spreads(pairs).items()),
        {"what": "first turn over the same when warm", "median [95%]": ratio, "bound": bound},
    ]
    print_table(f"{args.runs} restarts, {args.npc} in {args.lang}", rows)
    named = {name: getattr(args, name) for name in ("npc", "lang", "runs")}
    figures = {"pairs": pairs, "ratio": ratio, "greatest_ratio": MAX_RATIO, "is_good": is_good}
    write_report(args.json, "startup", named | shown_settings(settings), figures)
    if args.plot:
        _draw(args.plot, pairs)
    return int(not is_good)


def _distinct(lines: Sequence[TurnLabel]) -> list[TurnLabel]:
    """The first of the lines that say the same."""
    first: dict[str, TurnLabel] = {}
    for line in lines:
        first.setdefault(line.player_utterance, line)
    return list(first.values())


def _measure(
    lines: Sequence[TurnLabel], settings: Settings, args: argparse.Namespace
) -> list[Pair]:
    """Raises ValueError where too few lines have a state, and ServerFailed."""
    with Progress(transient=True) as progress:
        task = progress.add_task("starts", total=args.runs + 2)
        with run_server(SERVE, settings) as server:
            server.wait_until_ready()
            found = _with_state(server, lines, args.runs)
        progress.advance(task)
        between, asked = found[:NUM_BETWEEN], found[NUM_BETWEEN:]
        starts = []
        for first, last in pairwise(asked):
            starts.append(_start(settings, first, between, last))
            progress.advance(task)
    return [_pair(before, after) for before, after in pairwise(starts)]


def _num_lines(num_runs: int) -> int:
    """How many different ones are asked: those between, and the first of each start but one."""
    return NUM_BETWEEN + num_runs + 2


def _check_enough(num_lines: int, num_runs: int) -> None:
    if num_lines < (needed := _num_lines(num_runs)):
        raise ValueError(
            f"{needed} different lines with a state are needed, but only {num_lines} are there; "
            "ask for fewer --runs, or name another --npc or --data"
        )


def _with_state(server: Server, lines: Sequence[TurnLabel], num_runs: int) -> list[TurnLabel]:
    """As many lines as are needed that no forbidden trigger answers instead of the model."""
    found: list[TurnLabel] = []
    for line in lines:
        if _ask(server, line).state_ms is not None:
            found.append(line)
        if len(found) == _num_lines(num_runs):
            break
    _check_enough(len(found), num_runs)
    return found


def _start(
    settings: Settings, first: TurnLabel, between: Sequence[TurnLabel], last: TurnLabel
) -> Start:
    with run_server(SERVE, settings) as server:
        ready = server.wait_until_ready()
        cold = _ask(server, first)
        for line in between:
            _ask(server, line)
        return Start(ready, cold, _ask(server, last))


def _ask(server: Server, line: TurnLabel) -> Turn:
    """A turn that begins a session."""
    session = f"startup {line.conversation} {line.turn}"
    body = make_body(line, session, is_first=True, max_tokens=NUM_TOKENS, precheck_passed=True)
    start = time.perf_counter()
    answer = server.post("/ask", body)
    answer_ms = (time.perf_counter() - start) * 1e3
    meta = msgspec.json.decode(answer, type=Answer).meta
    usage = meta.usage
    return Turn(meta.timings_ms.state, answer_ms, usage.prompt_tokens, usage.cached_tokens)


def _pair(before: Start, after: Start) -> Pair:
    cold, warm = after.cold, before.warm
    assert cold.state_ms is not None, "it had a state before"
    assert warm.state_ms is not None, "it had a state before"
    return Pair(after.ready_s, cold.state_ms, warm.state_ms, cold, warm)


def _spreads(pairs: Sequence[Pair]) -> dict[str, Ratio]:
    """Medians and their intervals."""
    spans: dict[str, Sequence[float]] = {
        "start to /readyz, s": [pair.ready_s for pair in pairs],
        "first turn to state, ms": [pair.cold_ms for pair in pairs],
        "same turn to state when warm, ms": [pair.warm_ms for pair in pairs],
        f"first turn to {NUM_TOKENS} tokens at the client, ms": [p.cold.answer_ms for p in pairs],
        "same turn when warm, at the client, ms": [pair.warm.answer_ms for pair in pairs],
        "tokens evaluated for the first turn's state": [pair.cold.num_new for pair in pairs],
        "tokens evaluated for it when warm": [pair.warm.num_new for pair in pairs],
    }
    return {what: ratio_of(values, [1.0] * len(values)) for what, values in spans.items()}


def _draw(path: Path, pairs: Sequence[Pair]) -> None:
    """Each turn's two times, side by side, and the time until ready."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(8, 3.5), layout="constrained")
    turns, ready = figure.subplots(1, 2, width_ratios=[3, 1])
    for pair in pairs:
        turns.plot([0, 1], [pair.warm_ms, pair.cold_ms], "o-", color="#3b82c4", linewidth=0.8)
    turns.set_xticks([0, 1], ["warm", "first after a restart"])
    turns.set_xlim(-0.3, 1.3)
    turns.set_ylabel("time to state, ms")
    turns.set_ylim(0, 1.1 * max(max(pair.cold_ms, pair.warm_ms) for pair in pairs))
    ready.plot([0] * len(pairs), [pair.ready_s for pair in pairs], "o", color="#d9822b")
    ready.set_xticks([0], ["start to /readyz"])
    ready.set_ylabel("s")
    ready.set_ylim(0, 1.1 * max(pair.ready_s for pair in pairs))
    figure.savefig(path)
