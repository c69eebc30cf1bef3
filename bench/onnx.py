"""`persona bench onnx`: what optimum's int8 and onnxruntime's graph optimisations gain and cost.

Two graphs are served: the heads, a few matrix products on one vector, and the sentence encoder, a
transformer. Variants take turns; each figure is a median of runs.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from bench.report import add_output, write_report
from export.encoder_cli import TARGETS
from export.machine import describe_machine
from export.reporter import RichReporter
from heads.bundle import HEADS, Bundle, default_bundle_folder, load_bundle
from heads.clues import Remark
from heads.session import HeadsSession, Vector
from rag.embedder import GRAPH, OnnxEmbedder

T = TypeVar("T")

NUM_STATES = 64
PLAIN = "not optimised"
TEXTS = (
    "그 반지 혹시 저한테 주실 수 있나요?",
    "어제는 제가 심한 말을 했어요. 정말 미안해요.",
    "등대 밑에서 부서진 배를 봤는데 누구 배인지 아세요?",
    "Could I have that ring, please?",
    "I saw a wrecked boat under the lighthouse. Do you know whose it is?",
    "Three fish and a loaf of bread, if you please.",
)
REMARK = Remark("sora", TEXTS[0], {"quest_stage": "started", "trust": 0.4, "items": ["map"]})


@dataclass(frozen=True, slots=True)
class Figures:
    """One variant: size in bytes, median microseconds a call, difference from the first variant."""

    name: str
    num_bytes: int
    microseconds: float
    difference: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the benchmark."""
    add = parser.add_argument
    add("--bundle", type=Path, default=default_bundle_folder(), help="whose heads")
    add("--encoder", type=Path, metavar="MODEL_DIR", help="a Hugging Face sentence encoder")
    add("--target", choices=TARGETS, default="avx2", help="CPU of the encoder's int8")
    add_output(parser, num_runs=7, has_plot=False)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Measures and prints."""
    figures: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as work:
        figures["heads"] = _heads(load_bundle(args.bundle), Path(work), args.runs)
        _print("heads.onnx, one state; difference: largest of any output", figures["heads"])
        if args.encoder:
            figures["encoder"] = _encoders(args, Path(work))
            title = f"{args.encoder.name}, one text; difference: 1 - mean cosine"
            _print(title, figures["encoder"])
    settings = {
        "bundle": args.bundle.name,
        "encoder": args.encoder and args.encoder.name,
        "target": args.target,
        "runs": args.runs,
    }
    write_report(args.json, "onnx", settings, figures)
    return 0


def _heads(bundle: Bundle, work: Path, num_runs: int) -> list[Figures]:
    states = np.random.default_rng(0).normal(0, 3, (NUM_STATES, bundle.manifest.n_embd))
    rows = [state[np.newaxis].astype(np.float32) for state in states]
    served = HeadsSession(bundle.heads, bundle.manifest.heads, bundle.manifest.n_embd)
    small = _quantised(bundle.heads, work)
    paths = {"served": bundle.heads, PLAIN: bundle.heads, "int8 by optimum": small}
    clues = [served.find(REMARK)]

    def raw(name: str) -> Callable[[Vector], Sequence[Vector]]:
        session = _session(paths[name], is_optimised=name != PLAIN)
        return lambda state: session.run(["delta", "flag"], served.inputs(state, clues))

    calls: dict[str, Callable[[Vector], Sequence[Vector]]] = {
        "served": lambda state: served.predict_batch(state, clues),
        **{name: raw(name) for name in (PLAIN, "int8 by optimum")},
    }
    times = _times({name: partial(_each, call, rows) for name, call in calls.items()}, num_runs)
    outputs = {
        name: np.hstack([np.hstack(call(row)) for row in rows]) for name, call in calls.items()
    }
    return [
        Figures(
            name,
            paths[name].stat().st_size,
            round(times[name] / len(rows) * 1e6, 2),
            round(float(np.abs(outputs[name] - outputs["served"]).max()), 4),
        )
        for name in calls
    ]


def _quantised(path: Path, work: Path) -> Path:
    """The graph in int8, weights by channel, as optimum makes it."""
    from optimum.onnxruntime import ORTQuantizer  # noqa: PLC0415 (imports PyTorch)
    from optimum.onnxruntime.configuration import AutoQuantizationConfig  # noqa: PLC0415

    shutil.copyfile(path, work / HEADS)
    quantizer = ORTQuantizer.from_pretrained(work, file_name=HEADS)
    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=True)
    quantizer.quantize(save_dir=work / "int8", quantization_config=settings)
    return next((work / "int8").glob("*.onnx"))


def _session(path: Path, *, is_optimised: bool) -> onnxruntime.InferenceSession:
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = (
        levels.ORT_ENABLE_ALL if is_optimised else levels.ORT_DISABLE_ALL
    )
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _encoders(args: argparse.Namespace, work: Path) -> list[Figures]:
    from export.encoder import EncoderOptions, export_encoder  # noqa: PLC0415 (imports PyTorch)

    folders = {"float32": work / "float", f"int8, {args.target}": work / "small"}
    with RichReporter(Console(stderr=True)) as reporter:
        export_encoder(EncoderOptions(args.encoder, work / "float", "none"), reporter)
        export_encoder(EncoderOptions(args.encoder, work / "small", args.target), reporter)
    encoders = {name: OnnxEmbedder(folder) for name, folder in folders.items()}
    texts = [[text] for text in TEXTS]
    times = _times({n: partial(_each, e.encode, texts) for n, e in encoders.items()}, args.runs)
    vectors = {name: encoder.encode(TEXTS) for name, encoder in encoders.items()}
    return [
        Figures(
            name,
            (folder / GRAPH).stat().st_size,
            round(times[name] / len(TEXTS) * 1e6, 1),
            round(1 - float((vectors[name] * vectors["float32"]).sum(axis=1).mean()), 4),
        )
        for name, folder in folders.items()
    ]


def _each(call: Callable[[T], object], inputs: Sequence[T]) -> None:
    for given in inputs:
        call(given)


def _times(work: Mapping[str, Callable[[], object]], num_runs: int) -> dict[str, float]:
    """Median seconds of each, after one run to warm up."""
    found: dict[str, list[float]] = {name: [] for name in work}
    for at in range(num_runs + 1):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            if at:
                found[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in found.items()}


def _print(title: str, found: Sequence[Figures]) -> None:
    table = Table(title=title, title_justify="left", caption=str(describe_machine()))
    for column in ("variant", "kB", "µs a call", "difference"):
        table.add_column(column)
    for row in found:
        size, speed = f"{row.num_bytes / 1e3:.0f}", f"{row.microseconds:.1f}"
        table.add_row(row.name, size, speed, f"{row.difference:.4f}")
    Console(width=None if Console().is_terminal else 120).print(table)
