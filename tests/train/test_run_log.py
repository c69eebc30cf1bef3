"""What a run writes while it goes, and what is left of it when the run is killed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from train.run_log import CURVES, LOG, RunLog, draw_curves, read_log

pytestmark = pytest.mark.filterwarnings("ignore")  # tensorboard's protobuf warns
PNG = b"\x89PNG\r\n\x1a\n"


@contextmanager
def opened(folder: Path, num_kept: int = 0) -> Iterator[RunLog]:
    log = RunLog(folder, num_kept)
    try:
        yield log
    finally:
        log.close()


def write_steps(folder: Path, *steps: int, num_kept: int = 0) -> None:
    with opened(folder, num_kept) as log:
        for step in steps:
            log.add("train", step, {"lm": 1 / step, "delta": 0.5, "flag": 0.25})


def steps_of(folder: Path) -> list[int]:
    return [row["step"] for row in read_log(folder / LOG)]


def events_of(folder: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]  # noqa: PLC0415 (slow to import)
        event_accumulator,
    )

    events: Any = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def test_rows_come_back_as_they_were_added_rounded_to_six_digits(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.add("train", 1, {"lm": 1.23456789, "lr": 4e-4})
        log.add("validation", 1, {"composite": -0.5})
        assert read_log(tmp_path / LOG) == log.rows, "each row is on disk as soon as it is added"
    assert read_log(tmp_path / LOG) == [
        {"kind": "train", "step": 1, "lm": 1.23457, "lr": 4e-4},
        {"kind": "validation", "step": 1, "composite": -0.5},
    ]


def test_a_log_that_is_not_there_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path / LOG) == []


@given(cut=st.integers(1, 40))
def test_a_last_line_that_was_half_written_is_dropped(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("log") / LOG
    first, second = b'{"kind":"train","step":1,"lm":1.5}', b'{"kind":"train","step":2,"lm":1.25}'
    path.write_bytes(first + b"\n" + second[: min(cut, len(second) - 1)])
    assert [row["step"] for row in read_log(path)] == [1]


def test_a_resumed_run_goes_on_after_the_rows_that_are_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, 3, 4)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"kind":"train","st')
    write_steps(tmp_path, 3, num_kept=2)
    assert steps_of(tmp_path) == [1, 2, 3]
    assert list(tmp_path.glob(".*")) == []


def test_a_new_run_keeps_no_row(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2)
    write_steps(tmp_path, 1)
    assert steps_of(tmp_path) == [1]


def test_tensorboard_shows_each_step_once_even_those_done_again(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 2, 3, 4)
    write_steps(tmp_path, 3, 4, 5, num_kept=2)
    found = events_of(tmp_path, "train/lm")
    assert [step for step, _ in found] == [1, 2, 3, 4, 5]
    assert [value for _, value in found] == pytest.approx([1 / step for step in range(1, 6)])


def test_the_curves_are_a_png_of_what_was_logged_so_far(tmp_path: Path) -> None:
    with opened(tmp_path) as log:
        log.draw()
        empty = (tmp_path / CURVES).read_bytes()
        log.add("train", 1, {"lm": 1.0, "loss": 2.0})
        log.add("validation", 1, {"lm": 1.0, "composite": 0.5})
        log.draw()
    drawn = (tmp_path / CURVES).read_bytes()
    assert empty.startswith(PNG)
    assert drawn.startswith(PNG)
    assert len(drawn) > len(empty)


def test_the_last_curves_survive_a_failure_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / CURVES
    draw_curves([{"kind": "train", "step": 1, "lm": 1.0}], path)
    before = path.read_bytes()

    def fail(_: Figure, beside: Path, **__: Any) -> None:
        beside.write_bytes(before[:100])
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="no space left"):
        draw_curves([{"kind": "train", "step": 1, "lm": 2.0}], path)
    assert path.read_bytes() == before


def lines_of(
    rows: Sequence[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> dict[tuple[str, str], list[tuple[float, float]]]:
    """What is drawn: the points by title and label."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    save = Figure.savefig

    def look(figure: Figure, *args: Any, **kwargs: Any) -> None:
        for axes in figure.axes:
            for line in axes.lines:
                points = [(float(x), float(y)) for x, y in line.get_xydata().tolist()]  # type: ignore[union-attr]
                found[axes.get_title(), str(line.get_label())] = points
        save(figure, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Figure, "savefig", look)
        draw_curves(rows, folder / CURVES)
    return found


def test_a_loss_that_stays_is_drawn_where_it_is_from_its_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"kind": "train", "step": step, "lm": 0.7} for step in range(1, 40)]
    drawn = lines_of(rows, monkeypatch, tmp_path)
    assert list(drawn) == [("lm", "train")]
    assert [value for _, value in drawn["lm", "train"]] == pytest.approx([0.7] * 39)
    assert [step for step, _ in drawn["lm", "train"]] == list(range(1, 40))


def test_losses_of_training_are_smoothed_and_those_of_validation_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [1.0, 0.0] * 20
    rows = [
        {"kind": kind, "step": step, "flag": value}
        for step, value in enumerate(values)
        for kind in ("train", "validation")
    ]
    drawn = lines_of(rows, monkeypatch, tmp_path)
    assert [value for _, value in drawn["flag", "validation"]] == values
    smooth = [value for _, value in drawn["flag", "train"]]
    assert smooth[0] == pytest.approx(1)
    assert smooth[1] == pytest.approx(0.9 / 1.9)
    assert all(0.35 < value < 0.65 for value in smooth[20:])
