"""Puts an evaluation's headline into the record that a bundle's manifest is made from."""

from pathlib import Path

import msgspec

from heads.bundle import HeadsRecord
from heads.spec import HeadSpec
from train.bootstrap import Estimate
from train.commands import write_whole
from train.dataset import DatasetError
from train.report_contents import Report


def read_record(path: Path, heads: HeadSpec) -> HeadsRecord:
    """The `heads.json` in `path`. Raises DatasetError if it is none, or of other heads."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=HeadsRecord)
    except (OSError, RecursionError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise DatasetError(f"{path}: no record of heads: {error}") from error
    if record.heads != heads:
        raise DatasetError(
            f"{path}: names, thresholds or temperature are not those of the bundle's heads; "
            "name the heads.json that the bundle was built from, or build the bundle again"
        )
    return record


def record_figures(path: Path, heads: HeadSpec, report: Report) -> None:
    """Note `report` of these `heads` under its split's name in a `heads.json`.

    Raises DatasetError.
    """
    record = read_record(path, heads)
    evaluation = record.evaluation | {report.meta.split: figures_of(report)}
    record = msgspec.structs.replace(record, evaluation=evaluation)
    raw = msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n"
    write_whole(path, raw)


def figures_of(report: Report) -> dict[str, object]:
    """The quoted figures: `[value, low, high]` where there is an interval."""
    found: dict[str, object] = {"date": report.meta.date, "machine": report.meta.machine}
    for name, evaluation in report.predictors.items():
        whole = evaluation.figures.whole
        headline = msgspec.structs.asdict(whole.headline)
        found[name] = {"num_turns": whole.num_turns} | {
            figure: _interval(estimate) for figure, estimate in headline.items()
        }
    if report.perplexity is not None:
        whole_perplexity = report.perplexity.whole
        found["perplexity"] = round(whole_perplexity.tuned.perplexity, 2)
        if whole_perplexity.untuned is not None:
            found["perplexity_untuned"] = round(whole_perplexity.untuned.perplexity, 2)
    if report.voice is not None:
        shares = msgspec.structs.asdict(report.voice)
        found["voice"] = {
            name: _interval(value) if isinstance(value, Estimate) else value
            for name, value in shares.items()
        }
    if report.lines is not None:
        found["lines"] = msgspec.to_builtins(report.lines.figures.whole.generated)
    return found


def _interval(estimate: Estimate) -> list[float | None]:
    numbers = (estimate.value, estimate.low, estimate.high)
    return [None if number is None else round(number, 4) for number in numbers]
