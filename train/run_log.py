"""What a run writes while it goes: `log.jsonl`, TensorBoard events, the curves as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

LOG = "log.jsonl"
CURVES = "curves.png"
_SMOOTHING = 0.9


class RunLog:
    """Appends rows to the log of the run in `folder`; those after `num_kept` are dropped first.

    A resumed run has logged steps that it is about to do again.
    """

    def __init__(self, folder: Path, num_kept: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 (slow to import)

        self._folder = folder
        self.rows = read_log(folder / LOG)[:num_kept]
        beside = folder / f".{LOG}.tmp"
        beside.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in self.rows))
        beside.replace(folder / LOG)
        self._file = (folder / LOG).open("ab")
        last = self.rows[-1]["step"] + 1 if self.rows else None
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=last)

    def add(self, kind: str, step: int, figures: Mapping[str, float]) -> None:
        """One row, `kind` being `train` or `validation`."""
        rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
        self.rows.append({"kind": kind, "step": step, **rounded})
        self._file.write(msgspec.json.encode(self.rows[-1]) + b"\n")
        self._file.flush()
        for name, value in figures.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def draw(self) -> None:
        """The curves so far."""
        draw_curves(self.rows, self._folder / CURVES)

    def close(self) -> None:
        """Write out what is buffered."""
        self._file.close()
        self._board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line that a killed run left half-written is not one."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        try:
            rows.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.DecodeError:
            break
    return rows


def draw_curves(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each loss of training, smoothed, and of validation, as a PNG."""
    from matplotlib.figure import Figure  # noqa: PLC0415 (slow to import)

    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, name in zip(
        figure.subplots(2, 2).flat, ("lm", "delta", "flag", "composite"), strict=True
    ):
        for kind in ("train", "validation"):
            points = [
                (r["step"], r[name]) for r in rows if r["kind"] == kind and r.get(name) is not None
            ]
            if not points:
                continue
            steps, values = zip(*points, strict=True)
            smooth = _smoothed(values) if kind == "train" else values
            axes.plot(steps, smooth, marker="" if kind == "train" else "o", label=kind)
        axes.set(title=name, xlabel="step")
        axes.legend() if axes.lines else None
    beside = path.with_name(f".{path.name}")
    figure.savefig(beside, dpi=100, format="png")
    beside.replace(path)


def _smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smooth, weight, result = 0.0, 0.0, []
    for value in values:
        smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        result.append(smooth / weight)
    return result
