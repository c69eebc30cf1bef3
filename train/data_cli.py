"""`persona data check`, `split` and `baselines`: the dataset of a world."""

import argparse
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from rag.world import load_world
from train.baselines import Baseline
from train.baselines import run_baselines as score_baselines
from train.commands import or_say_why, write_all
from train.data_check import check_dataset
from train.data_split import choose_validation
from train.data_summary import overlap, summary_table
from train.dataset import (
    SPLITS,
    DatasetProblems,
    TurnLabel,
    learned_from,
    read_dataset,
    read_splits,
)
from train.similarity import THRESHOLD, near_duplicates


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `data`."""
    data = commands.add_parser("data", help="check, split and measure a world's dataset")
    actions = data.add_subparsers(required=True, metavar="ACTION")
    for name, run, what in (
        ("check", run_check, "report every problem of a dataset, and what it holds"),
        ("split", run_split, "choose the validation part anew"),
        ("baselines", run_baselines, "score classical predictors on the test split"),
    ):
        action = actions.add_parser(name, help=what)
        action.add_argument("world", type=Path, help="the world's folder")
        action.add_argument("--data", type=Path, help="the dataset's folder (default: WORLD/data)")
        action.set_defaults(run=or_say_why(f"data {name}", run))
        if name == "split":
            action.add_argument("--validation", type=float, default=0.1, help="share of the turns")


def _folder(args: argparse.Namespace) -> Path:
    folder: Path = args.data or args.world / "data"
    return folder


def run_check(args: argparse.Namespace) -> None:
    """Print what the dataset holds. Raises DatasetProblems with every problem."""
    world = load_world(args.world)
    splits, problems = read_splits(_folder(args))
    problems += check_dataset(splits, world)
    if problems:
        raise DatasetProblems(problems)
    turns = {name: [line.turn for line in lines] for name, lines in splits.items()}
    console = Console()
    console.print(summary_table(turns))
    learned = learned_from(splits)
    turns["train"] = [line.turn for line in learned]
    for name in SPLITS[1:]:
        if name not in splits:
            continue
        close = near_duplicates(splits[name], learned)
        console.print(
            f"{name}: {len(close)} of {len(turns[name])} utterances are near-duplicates of a "
            f"training one (Jaccard index of character 3-grams >= {THRESHOLD}); "
            f"{_overlap(turns[name], turns['train'], 'player_utterance'):.0%} of the character "
            f"5-grams said and {_overlap(turns[name], turns['train'], 'response'):.0%} of those "
            "answered occur in training"
        )
    console.print("no problem found")


def _overlap(turns: Sequence[TurnLabel], others: Sequence[TurnLabel], key: str) -> float:
    return overlap((getattr(t, key) for t in turns), (getattr(t, key) for t in others))


def run_split(args: argparse.Namespace) -> None:
    """Write `train/` and `validation/` anew, a file for each NPC."""
    folder = _folder(args)
    splits, problems = read_splits(folder)
    if problems:
        raise DatasetProblems(problems)
    lines = [line for name in SPLITS[:2] for line in splits.get(name, ())]
    chosen = choose_validation(lines, args.validation)
    files: dict[Path, list[TurnLabel]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: (line.turn.conversation, line.turn.turn)):
        split = "validation" if line.turn.split_group in chosen else "train"
        files[folder / split / f"{line.turn.npc_id}.jsonl"].append(line.turn)
    contents = {
        path: b"".join(msgspec.json.encode(turn) + b"\n" for turn in turns)
        for path, turns in files.items()
    }
    for path in contents:
        path.parent.mkdir(parents=True, exist_ok=True)
    write_all(contents)
    for path in {line.path for line in lines} - files.keys():
        path.unlink()
    for name in SPLITS[:2]:
        count = sum(len(turns) for path, turns in files.items() if path.parent.name == name)
        print(f"{folder / name}: {count} turns")


def run_baselines(args: argparse.Namespace) -> None:
    """Print the table of docs/data-card.md."""
    world = load_world(args.world)
    turns = read_dataset(_folder(args), SPLITS)
    results = score_baselines(turns, world)
    table = Table("test split", *(result.name for result in results))
    for name, measure in _MEASURES.items():
        values = map(measure, results)
        table.add_row(name, *("-" if value is None else f"{value:.3f}" for value in values))
    for flag in turns["test"][0].flag:
        table.add_row(flag, *(f"{result.scores.flag_f1[flag]:.3f}" for result in results))
    Console().print(table)


_MEASURES: dict[str, Callable[[Baseline], float | None]] = {
    "flag macro-F1": lambda result: result.scores.flag_macro_f1,
    "macro-F1 under the rules": lambda result: result.ruled.flag_macro_f1,
    "pairs right": lambda result: result.pairs_right,
    "pairs right under the rules": lambda result: result.pairs_right_ruled,
    "delta MAE": lambda result: result.scores.delta_mae,
    "right signs": lambda result: result.scores.sign_accuracy,
    "... falling": lambda result: result.scores.sign_accuracy_falling,
    "... rising": lambda result: result.scores.sign_accuracy_rising,
}
