"""`persona bench kernels`: weight types, repacked or not, on this CPU, beside what was predicted.

The prediction is of instructions: counted in the ARM image under emulation, where they are real
though time is not (`deploy/image/instructions/count`, docs/image.md). A few layers of
Qwen2.5-3B's shape with random weights: speed depends on shapes and types alone.
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from rich.console import Console
from rich.table import Table

from bench.make_model import SHAPES, WeightType, make_model
from bench.report import write_report
from export.gguf_file import write_gguf
from export.machine import describe_machine
from export.reporter import RichReporter
from export.speed import measure_speed, speed_config
from runtime.host import num_cores
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.llama_library import cpu_features

RECORD = Path(__file__).with_name("kernels.json")
SHAPE, NUM_LAYERS = "qwen2.5-3b", 4
TYPES: tuple[WeightType, ...] = ("q4_k_m", "q4_0", "q8_0")
Layout: TypeAlias = Literal["repacked", "plain"]
LAYOUTS: tuple[Layout, ...] = ("repacked", "plain")


class Counted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Millions of instructions for one token."""

    prefill: float
    decode: float


class Counts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was counted with one library of kernels."""

    features: list[str]
    """Those that the kernels use and lesser ones lack."""
    counted: dict[WeightType, dict[Layout, Counted]]


@dataclass(slots=True)
class Side:
    """Weights of a type in a layout, and tokens a second, a figure a run."""

    weights: WeightType
    layout: Layout
    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    parser.add_argument("--threads", type=int, default=num_cores())
    parser.add_argument("--runs", type=int, default=5, help="interleaved runs (default: 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measure, and print the table."""
    sides = [Side(*pair) for pair in product(TYPES, LAYOUTS)]
    with tempfile.TemporaryDirectory() as folder:
        files = dict(make_files(Path(folder)))
        for _ in range(args.runs):
            for side in sides:
                _measure(side, files[side.weights], args.threads)
    Console().print(_table(sides, predicted(cpu_features())))
    settings = {"shape": SHAPE, "layers": NUM_LAYERS, "threads": args.threads}
    write_report(args.json, "kernels", settings, sides)
    return 0


def predicted(features: Mapping[str, bool]) -> Counts | None:
    """What was counted with the kernels that this CPU's features call for; None if it is no ARM."""
    if not features.get("NEON"):
        return None
    kinds = msgspec.json.decode(RECORD.read_bytes(), type=list[Counts])  # the best last
    return [kind for kind in kinds if all(features.get(name) for name in kind.features)][-1]


def make_files(folder: Path) -> Iterator[tuple[WeightType, Path]]:
    """A model of each type, made one by one."""
    shape = replace(SHAPES[SHAPE], num_layers=NUM_LAYERS)
    with RichReporter(Console(stderr=True)) as reporter:
        for weights in TYPES:
            path = folder / f"{weights}.gguf"
            model = make_model(SHAPE, shape, weights, seed=0)
            size = sum(tensor.num_bytes for tensor in model.tensors.values())
            write_gguf(model, path, reporter.stage(f"writing {weights}", size))
            yield weights, path


def _measure(side: Side, path: Path, num_threads: int) -> None:
    with (
        closing(LlamaModel(path, repack=side.layout == "repacked")) as model,
        closing(LlamaContext(model, speed_config(num_threads))) as context,
    ):
        context.warm_up()
        prefill, decode = measure_speed(model, context)
    side.prefill.append(prefill)
    side.decode.append(decode)


def _table(sides: list[Side], counts: Counts | None) -> Table:
    """Speeds, and each over the first side's: as measured, and as instructions predict it."""
    table = Table(
        title=f"{describe_machine()}; {NUM_LAYERS} layers of {SHAPE}", title_justify="left"
    )
    for column in ("weights", "layout", "prefill", "decode"):
        table.add_column(column)
    for column in ("prefill ratio", "predicted", "decode ratio", "predicted"):
        table.add_column(column, justify="right")
    for side in sides:
        cells: list[str] = [side.weights, side.layout]
        cells += [f"{statistics.median(runs):.1f} tokens/s" for runs in (side.prefill, side.decode)]
        for part in ("prefill", "decode"):
            ours, first = (statistics.median(getattr(one, part)) for one in (side, sides[0]))
            cells += [f"{ours / first:.2f}", _predicted_ratio(side, sides[0], part, counts)]
        table.add_row(*cells)
    return table


def _predicted_ratio(side: Side, first: Side, part: str, counts: Counts | None) -> str:
    if counts is None:
        return "-"
    ours, theirs = (getattr(counts.counted[one.weights][one.layout], part) for one in (side, first))
    return f"{theirs / ours:.2f}"
