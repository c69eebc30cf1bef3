"""`persona tune`: the engine's fastest settings for a bundle on this machine, for `persona serve`.

One setting after another, from those in force: each value is timed beside the present one, and the
outcome of all once more beside what there was before. Only what no head depends on is written.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import msgspec
from rich.console import Console
from rich.progress import Progress

from bench.report import print_table, write_report
from bench.tune_load import MEANINGS, NUM_REPLY, NUM_TOGETHER, Workload, write_prompt
from bench.tune_search import GAIN, Figure, Knob, Referee, Runs, Setup, Trial, thread_values
from heads.bundle import Bundle, ContextSettings, load_bundle
from heads.loading import check_format, open_encoder
from rag.world import load_world
from runtime.context_config import MAX_SEQUENCES
from runtime.host import num_cores
from runtime.llama_backend import LlamaModel
from server.settings import PREFIX, Settings, read_settings
from server.tuned import Tuned, in_force, write_tuned

LEAST_RUNS, MOST_RUNS = 3, 100
SIZES = (64, 128, 256, 512, 1_024)
NAMES = {
    "threads": "threads, one token",
    "threads_batch": "threads, prompts and batches",
    "step_tokens": "tokens a step",
    "ubatch_tokens": "n_ubatch",
    "kv_type": "KV type",
}
UNITS: dict[Figure, str] = {
    "turn": "turn, ms",
    "replies": f"{NUM_TOGETHER} replies, tokens/s",
    "first": "first prompt, ms",
    "step": "longest step, ms",
}


@dataclass(frozen=True, slots=True)
class Found:
    """What each knob's trial showed, and the outcome beside the start, if it is another."""

    trials: list[tuple[Knob, Trial]]
    outcome: Trial | None
    best: Setup


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `tune`."""
    parser = commands.add_parser("tune", help="find the fastest settings for this machine")
    add = parser.add_argument
    add("--bundle", type=Path, help="default: PERSONA_BUNDLE, else the default bundle")
    add("--runs", type=int, default=5, help="runs of each value, in turns (default: 5)")
    add("--dry-run", action="store_true", help="write nothing")
    add("--json", type=Path, metavar="FILE", help="write settings, machine and figures here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, print and write; an interrupted run writes nothing."""
    if not LEAST_RUNS <= args.runs <= MOST_RUNS:
        what = f"--runs is {args.runs}; it must be from {LEAST_RUNS} to {MOST_RUNS}"
        print(f"persona tune: {what}", file=sys.stderr)
        return 1
    settings = read_settings()
    if args.bundle:
        settings = msgspec.structs.replace(settings, bundle=args.bundle)
    _warn_of_load()
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    check_format(bundle)
    if (n_batch := bundle.manifest.context.n_batch) < SIZES[0]:
        what = f"the bundle's n_batch is {n_batch}; with less than {SIZES[0]} nothing can be tuned"
        print(f"persona tune: {what}", file=sys.stderr)
        return 1
    found = _find(settings, bundle, args.runs)
    _print(found, bundle)
    write_report(args.json, "tune", {"runs": args.runs, "bundle": bundle.id}, _figures(found))
    if not args.dry_run:
        best = found.best
        tuned = Tuned(best.threads, best.threads_batch, best.step_tokens)
        print(f"{write_tuned(bundle.id, tuned)}: {tuned}; `persona serve` reads it when it starts")
        for name in ("threads", "threads_batch", "step_tokens"):
            if getattr(settings, name) is not None:
                print(f"{PREFIX}{name.upper()} is set and wins over what was written")
    return 0


def _warn_of_load() -> None:
    load = os.getloadavg()[0]
    if load > num_cores() / 2:
        what = f"this machine is busy (load {load:.1f} on {num_cores()} cores)"
        print(f"{what}: what is found holds for that; better tune it idle", file=sys.stderr)


def _find(settings: Settings, bundle: Bundle, num_runs: int) -> Found:
    """Raises BundleError, ModelError or WorldError."""
    context = bundle.manifest.context
    now = in_force(settings, bundle)
    step = max(now.step_tokens, _least_step(settings, context))
    start = Setup(now.threads, now.threads_batch, step, context.n_ubatch, context.kv_type)
    world = load_world(settings.world)
    with closing(LlamaModel(bundle.model)) as model:
        encoder = open_encoder(bundle, model)
        load = Workload(model, write_prompt(world, encoder), encoder.state_id, context)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            return _search(start, make_knobs(settings, context), load, num_runs, progress)


def make_knobs(settings: Settings, context: ContextSettings) -> list[Knob]:
    """What is tried, in this order."""
    threads = thread_values(num_cores())
    sizes = [size for size in SIZES if size <= context.n_batch]
    least = _least_step(settings, context)
    return [
        Knob("threads", threads, ("turn",)),
        Knob("threads_batch", threads, ("turn", "replies")),
        Knob("ubatch_tokens", sizes, ("first",), is_written=False),
        Knob("kv_type", ("f16", "q8_0"), ("turn", "replies"), is_written=False),
        Knob("step_tokens", [size for size in sizes if size >= least], ("first", "step")),
    ]


def _least_step(settings: Settings, context: ContextSettings) -> int:
    """A step has room for a token of each sequence."""
    num_sequences = settings.n_sequences + settings.n_residents + (settings.prefix_mb > 0)
    return min(num_sequences, MAX_SEQUENCES, context.n_batch)


def _search(
    start: Setup, knobs: Sequence[Knob], load: Workload, num_runs: int, progress: Progress
) -> Found:
    task = progress.add_task("", total=(len(knobs) + 1) * num_runs)
    referee = Referee(load.measure, num_runs, lambda: progress.advance(task))
    trials: list[tuple[Knob, Trial]] = []
    best = start
    with closing(load):
        for at, knob in enumerate(knobs):
            progress.update(task, description=NAMES[knob.name], completed=at * num_runs)
            trial = referee.try_knob(knob, best)
            load.close()
            trials.append((knob, trial))
            if knob.is_written:
                best = trial.best
            progress.console.print(f"{NAMES[knob.name]}: {getattr(best, knob.name)}")
        if best == start:
            return Found(trials, None, start)
        progress.update(task, description="all together", completed=len(knobs) * num_runs)
        outcome = referee.compare(start, [best], _touched(knobs, start, best))
    return Found(trials, outcome, outcome.best)


def _touched(knobs: Sequence[Knob], start: Setup, best: Setup) -> Sequence[Figure]:
    """The figures of the knobs by which two setups differ."""
    turned = [knob for knob in knobs if getattr(start, knob.name) != getattr(best, knob.name)]
    return tuple(dict.fromkeys(figure for knob in turned for figure in knob.figures))


def _print(found: Found, bundle: Bundle) -> None:
    rows = [
        row
        for knob, trial in found.trials
        for runs in (trial.present, *trial.others)
        for row in _rows(knob, trial, runs)
    ]
    print_table(f"persona tune, {bundle.id}", rows)
    for figure, unit in UNITS.items():
        print(f"{unit.partition(',')[0]}: {MEANINGS[figure]}")
    print(
        f"A value is taken if it makes one of its figures {GAIN - 1:.0%} faster or more (low end "
        "of the 95% interval) and none slower by as much. n_ubatch and the KV type change hidden "
        "states and the heads were calibrated under the bundle's: they are not written."
    )
    if found.outcome is None:
        print("The settings in force stay.")
        return
    (other,) = found.outcome.others
    ratios = found.outcome.ratios(other).items()
    gains = "; ".join(f"{UNITS[figure].partition(',')[0]} {ratio}" for figure, ratio in ratios)
    is_kept = found.best == other.setup
    print(f"All together, times as fast as before: {gains}")
    if not is_kept:
        print("That is no gain after all: the settings in force stay.")


def _rows(knob: Knob, trial: Trial, runs: Runs) -> Iterator[dict[str, object]]:
    """A line a figure; one line in all where there is none."""
    ratios = {} if runs is trial.present else trial.ratios(runs)
    figures: Sequence[Figure | None] = tuple(runs.seconds) or (None,)
    for at, figure in enumerate(figures):
        yield {
            "setting": NAMES[knob.name],
            "value": getattr(runs.setup, knob.name),
            "figure": UNITS[figure] if figure else "-",
            "median": _shown(figure, runs.seconds[figure]) if figure else "-",
            "times as fast [95%]": ratios.get(figure, "-") if figure else "-",
            "verdict": "" if at else _verdict(knob, trial, runs),
        }


def _shown(figure: Figure, seconds: Sequence[float]) -> float:
    """The median in the figure's unit."""
    if figure == "replies":
        return NUM_TOGETHER * NUM_REPLY / median(seconds)
    return 1e3 * median(seconds)


def _verdict(knob: Knob, trial: Trial, runs: Runs) -> str:
    if runs is trial.present:
        return "in force"
    if not runs.is_possible:
        return "llama.cpp has no such cache for this model"
    if not trial.is_better(runs):
        return "no gain"
    if not knob.is_written:
        return "better, not written"
    return "taken" if runs.setup == trial.best else "better, not the best"


def _figures(found: Found) -> dict[str, object]:
    return {
        "trials": [{"setting": knob.name, **_trial(trial)} for knob, trial in found.trials],
        "outcome": None if found.outcome is None else _trial(found.outcome),
        "best": found.best,
    }


def _trial(trial: Trial) -> dict[str, object]:
    return {
        "present": trial.present,
        "others": [{"runs": other, "ratios": trial.ratios(other)} for other in trial.others],
    }
