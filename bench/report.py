"""What the engine's benchmarks have in common: where they ran, ratios of runs, what they leave."""

import argparse
import importlib.metadata
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from rich.console import Console
from rich.table import Table

from export.machine import describe_machine
from runtime.llama_library import cpu_features

_PACKAGES = ("llama-cpp-python", "numpy", "onnxruntime", "starlette", "uvicorn")
_NUM_RESAMPLES = 10_000
_PLAIN_WIDTH = 140


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of paired runs' ratios, and its 95% interval by the bootstrap."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} [{self.low:.3f}, {self.high:.3f}]"


def ratio_of(runs: Sequence[float], others: Sequence[float]) -> Ratio:
    """`runs` over `others`, run by run: they took turns, so each pair saw the same machine.

    Percentile bootstrap of the median (Efron 1979, "Bootstrap methods").
    """
    ratios = np.array([a / b for a, b in zip(runs, others, strict=True)])
    drawn = np.random.default_rng(0).choice(ratios, (_NUM_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return Ratio(statistics.median(ratios.tolist()), float(low), float(high))


def add_output(
    parser: argparse.ArgumentParser, *, num_runs: int = 5, has_plot: bool = True
) -> None:
    """Options that every benchmark of the engine has, `--plot` where it can draw."""
    add = parser.add_argument
    add("--runs", type=int, default=num_runs, help=f"interleaved runs (default: {num_runs})")
    add("--json", type=Path, metavar="FILE", help="write settings, machine and figures here")
    if has_plot:
        add("--plot", type=Path, metavar="PNG", help="draw the figures here")


def check_range(option: str, value: float, low: float, high: float) -> None:
    """Raise ValueError, in words for the user, unless `value` is from `low` to `high`."""
    if not low <= value <= high:
        raise ValueError(f"{option} is {value:.15g}; it must be from {low:.15g} to {high:.15g}")


def write_report(path: Path | None, name: str, settings: object, figures: object) -> None:
    """The whole measurement as JSON, if there is a `path`."""
    if path is None:
        return
    report = {
        "bench": name,
        "settings": settings,
        "machine": describe_machine(),
        "versions": versions(),
        "cpu_features": sorted(name for name, is_on in cpu_features().items() if is_on),
        "figures": figures,
    }
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def versions() -> dict[str, str]:
    """Versions of Python and of what the figures depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version()} | found


def print_table(title: str, rows: Sequence[Mapping[str, object]]) -> None:
    """One line a row, columns by the first row's keys; the machine below."""
    table = Table(title=title, title_justify="left", caption=str(describe_machine()))
    for column in rows[0]:
        table.add_column(column)
    for row in rows:
        table.add_row(*(_shown(value) for value in row.values()))
    Console(width=None if Console().is_terminal else _PLAIN_WIDTH).print(table)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
