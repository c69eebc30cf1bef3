"""`persona heads fit`: heads on frozen states of the GGUF that will serve."""

import argparse
import os
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from export.gguf_file import read_gguf
from export.heads_graph import OPSET
from export.quantise import QUANT_TYPES
from export.reporter import RichReporter
from export.vocabulary import model_vocabulary_sha256
from heads.bundle import AGREEMENT, HEADS, HEADS_RECORD, ContextSettings, HeadsRecord
from rag.embedder import DEFAULT
from rag.world import World, load_world
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaModel
from train.commands import or_say_why
from train.dataset import TurnLabel, check_npcs, conversations, read_dataset
from train.fit_agreement import fit_agreement
from train.fit_heads import LinearHeads, Targets, fit, make_targets
from train.heads_files import head_spec, write_agreement, write_heads
from train.metrics import Scores, majority_baseline, score
from train.recall import open_writer
from train.state_cache import kept_states
from train.states import Conditions, Form, LabelledState, num_turns, read_states, readings, stack


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register `heads`."""
    heads = commands.add_parser("heads", help="fit the heads of a bundle")
    actions = heads.add_subparsers(required=True, metavar="ACTION")
    fit_parser = actions.add_parser("fit", help="fit linear heads on a GGUF's frozen states")
    fit_parser.add_argument("--model", type=Path, required=True, help="the GGUF that will serve")
    fit_parser.add_argument("--world", type=Path, required=True, help="the world of the dataset")
    fit_parser.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    fit_parser.add_argument("--out", type=Path, required=True, help="folder for heads.onnx")
    fit_parser.add_argument(
        "--states", type=Path, help="file that keeps the states read, for the next fit"
    )
    fit_parser.add_argument(
        "--embedder", default=DEFAULT, help="what finds notes: `default`, a folder, `none`"
    )
    fit_parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    fit_parser.set_defaults(run=or_say_why("heads fit", run_fit))
    agree = actions.add_parser("agreement", help="fit what holds lines against decisions")
    agree.add_argument("--data", type=Path, required=True, help="folder of the dataset")
    agree.add_argument("--out", type=Path, required=True, help="folder of heads.onnx")
    agree.set_defaults(run=or_say_why("heads agreement", run_agreement))
    compare = actions.add_parser("compare", help="linear heads beside such with a hidden layer")
    compare.add_argument("run_folder", type=Path, metavar="RUN", help="folder of `persona train`")
    compare.add_argument("--checkpoint", choices=("best", "last"), default="best")
    compare.add_argument("--quant", choices=QUANT_TYPES, default="q8_0", help="GGUF that is read")
    compare.add_argument(
        "--refit", type=int, default=120, metavar="N", help="conversations to fit on"
    )
    compare.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    compare.set_defaults(run=or_say_why("heads compare", run_compare))


def run_agreement(args: argparse.Namespace) -> None:
    """Write `agreement.json`. Raises DatasetError."""
    splits = read_dataset(args.data, ("train", "validation"))
    file = fit_agreement(splits["train"], splits["validation"])
    args.out.mkdir(parents=True, exist_ok=True)
    write_agreement(args.out, file)
    grants, refuses = file.thresholds
    print(
        f"wrote {args.out / AGREEMENT}: lines grant from {grants:.2f} on, refuse from {refuses:.2f}"
    )


def run_compare(args: argparse.Namespace) -> None:
    """Print how well heads of each shape read the validation split. Raises DatasetError."""
    from train.head_shapes import compare_shapes  # noqa: PLC0415 (PyTorch is slow)
    from train.trained import open_trained  # noqa: PLC0415

    with RichReporter(Console(stderr=True)) as reporter:
        trained = open_trained(args.run_folder, reporter, args.checkpoint)
        shapes = compare_shapes(trained, args.quant, args.refit, args.threads, reporter)
    table = Table("heads", "flags: average precision [95%]", "deltas: merit [95%]")
    for shape in shapes:
        merits = (shape.flag_merit, shape.delta_merit)
        table.add_row(shape.name, *(f"{m.value:.3f} [{m.low:.3f}, {m.high:.3f}]" for m in merits))
    Console().print(table)


def run_fit(args: argparse.Namespace) -> None:
    """Fit, report on the other splits, and write `heads.onnx` and `heads.json`.

    Raises DatasetError.
    """
    world = load_world(args.world)
    splits = read_dataset(args.data, ("train",))
    check_npcs(splits, world)
    settings = ContextSettings()
    turns = [turn for part in splits.values() for turn in part]
    split_of = {turn.conversation: name for name, part in splits.items() for turn in part}
    states = _read_states(args, world, turns, settings)
    delta_names, flag_names = list(turns[0].delta), list(turns[0].flag)
    parts = {
        name: [state for state in states if split_of[state.label.conversation] == name]
        for name in splits
    }
    targets = {name: make_targets(part, delta_names, flag_names) for name, part in parts.items()}
    heads, chosen = fit(parts["train"], targets["train"])
    evaluation: dict[str, object] = {
        name: _evaluate(heads, name, parts[name], targets, flag_names)
        for name in splits
        if name != "train"
    }
    record = HeadsRecord(
        heads=head_spec(heads, delta_names, flag_names),
        vocabulary_sha256=model_vocabulary_sha256(read_gguf(args.model)),
        context=settings,
        training={
            "method": "linear heads on frozen states",
            "onnx_opset": OPSET,
            "num_turns": len({id(s.label) for s in parts["train"]}),
            **chosen,
        },
        evaluation=evaluation,
    )
    write_heads(args.out, heads, record)
    print(f"wrote {args.out / HEADS} and {HEADS_RECORD}")


def _read_states(
    args: argparse.Namespace, world: World, turns: list[TurnLabel], settings: ContextSettings
) -> list[LabelledState]:
    """The states of `turns`, or those that `args.states` keeps of them."""
    model = LlamaModel(args.model)
    conditions = Conditions(settings, args.threads, with_nll=False)
    try:
        encoder = PromptEncoder(model, find_special_ids(model))
        writer = open_writer(args.world, world, args.embedder, encoder)
        wanted = readings(conversations(turns).values(), writer)

        def read() -> list[LabelledState]:
            with RichReporter(Console()) as reporter:
                done = reporter.stage("reading states", num_turns(wanted))
                return read_states(model, wanted, conditions, done)

        return kept_states(args.states, [args.model], wanted, conditions, read)
    finally:
        model.close()


def _evaluate(
    heads: LinearHeads,
    name: str,
    states: list[LabelledState],
    targets: dict[str, Targets],
    flag_names: list[str],
) -> dict[str, object]:
    """Scores on one split, each form of the transcript apart, beside the majority's."""
    fitted, true = targets["train"], targets[name]
    table = Table(title=f"{name} split", title_justify="left")
    for column in (
        "predictor",
        "turns",
        "flag macro-F1",
        "delta MAE",
        "right signs",
        "falling",
        "rising",
        "F1 a flag",
    ):
        table.add_column(column)
    baseline = majority_baseline(fitted.delta, fitted.flag, true.delta, true.flag, flag_names)
    report: dict[str, object] = {"majority_baseline": baseline.rounded()}
    _add_row(table, "majority", len(states), baseline)
    delta, flag_scores = heads.predict(stack(states))
    raised = flag_scores >= heads.thresholds
    for form in Form:
        rows = np.array([state.form is form for state in states])
        if not rows.any():
            continue
        result = score(delta[rows], raised[rows], true.delta[rows], true.flag[rows], flag_names)
        report[str(form)] = {"num_turns": int(rows.sum()), **result.rounded()}
        _add_row(table, f"heads, {form} transcript", int(rows.sum()), result)
    Console().print(table)
    return report


def _add_row(table: Table, name: str, count: int, scores: Scores) -> None:
    f1 = ", ".join(f"{flag} {value:.2f}" for flag, value in scores.flag_f1.items())
    figures = (
        scores.flag_macro_f1,
        scores.delta_mae,
        scores.sign_accuracy,
        scores.sign_accuracy_falling,
        scores.sign_accuracy_rising,
    )
    written = ("-" if value is None else f"{value:.3f}" for value in figures)
    table.add_row(name, str(count), *written, f1)
