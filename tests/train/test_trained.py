"""A run opened again, after its dataset has changed or has not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from export.reporter import RichReporter
from heads.bundle import file_sha256
from rag.world import load_world
from server.cli import main
from tests.export.bundles import Recorder
from tests.train.nari import turn
from tests.train.tiny_run import TinyRun, gguf_run
from train.base import prepare_base
from train.checkpoint import BEST, TrainedPersona
from train.config import read_config
from train.dataset import LEARNED, DatasetError, dataset_sha256
from train.export_run import _open_data
from train.run import RUN, RunRecord, world_sha256
from train.trained import Trained, open_trained

PERSONA = TrainedPersona("0" * 64, ["trust"], ["give_item"])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyRun:
    """What opening a finished run reads; its data is in two files a split."""
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    run = gguf_run(tmp_path / "tiny")
    data = run.folder / "data"
    for split in ("train", "validation"):
        add(data / split / "more.jsonl", f"more {split}")
    config = read_config(run.folder / "config.toml", [])
    with RichReporter(Console(quiet=True)) as reporter:
        base = prepare_base(config.base, reporter)
    record = RunRecord(
        config=config,
        vocabulary_sha256=base.vocabulary_sha256,
        data_sha256=dataset_sha256(data),
        learned_sha256=dataset_sha256(data, LEARNED),
        base_sha256=file_sha256(base.gguf),
    )
    (run.out / BEST).mkdir(parents=True)
    (run.out / RUN).write_bytes(msgspec.json.encode(record))
    (run.out / BEST / "persona.json").write_bytes(msgspec.json.encode(PERSONA))
    return run


def add(path: Path, conversation: str) -> None:
    line = turn(conversation, 0, f"{conversation}?", f"{conversation}.")
    path.write_text(json.dumps(line, ensure_ascii=False) + "\n", encoding="utf-8")


def opened(run: TinyRun) -> Trained:
    with RichReporter(Console(quiet=True)) as reporter:
        return open_trained(run.out, reporter)


def record(run: TinyRun, **changes: str) -> None:
    """As if the run had recorded something else; "" is what older ones did not record."""
    found = msgspec.json.decode((run.out / RUN).read_bytes(), type=dict[str, Any])
    (run.out / RUN).write_bytes(msgspec.json.encode(found | changes))


def split_anew(data: Path) -> None:
    old, new = data / "train" / "nari.jsonl", data / "validation" / "nari.jsonl"
    trained, held_out = old.read_bytes(), new.read_bytes()
    old.write_bytes(held_out)
    new.write_bytes(trained)


def move_to_validation(data: Path) -> None:
    """The files stay in their order: a hash of all contents alone is what it was."""
    (data / "train" / "nari.jsonl").rename(data / "validation" / "a.jsonl")


def label_a_drill(data: Path) -> None:
    (data / "drills").mkdir()
    add(data / "drills" / "nari.jsonl", "a drill")


def forget_a_turn(data: Path) -> None:
    (data / "train" / "more.jsonl").unlink()


@pytest.mark.parametrize("change", [split_anew, move_to_validation, label_a_drill, forget_a_turn])
def test_a_run_whose_training_turns_are_others_now_is_not_opened(
    run: TinyRun, change: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    change(run.folder / "data")
    with pytest.raises(DatasetError, match=r"not what .*run was trained on.*train anew"):
        opened(run)
    assert main(["export", str(run.out), "--out", str(run.folder / "bundle")]) == 1
    assert "train/ and drills/ are not what" in capsys.readouterr().err


def test_validation_may_grow_and_what_calibrates_is_what_is_said(run: TinyRun) -> None:
    data = run.folder / "data"
    before = opened(run)
    assert before.data_sha256 == before.record.data_sha256
    add(data / "validation" / "new.jsonl", "a new one")
    now = opened(run)
    assert now.data_sha256 == dataset_sha256(data) != before.data_sha256


def test_a_world_that_has_changed_is_read_as_it_is_with_a_word(run: TinyRun) -> None:
    config = read_config(run.folder / "config.toml", [])
    folder, before = Path(config.data.world), load_world(Path(config.data.world))
    record(run, world_sha256=world_sha256(before))
    reporter = Recorder()
    assert _open_data(opened(run), reporter)[0].documents == before.documents
    assert reporter.lines == []
    (folder / "note.md").write_text("---\nid: note\n---\nThe thimble is silver.\n", "utf-8")
    world, splits = _open_data(opened(run), reporter)
    assert len(world.documents) == len(before.documents) + 1
    assert splits["validation"]
    assert "is not what it was in training" in reporter.lines[0]


def test_of_an_older_run_no_turn_may_have_changed(run: TinyRun) -> None:
    record(run, learned_sha256="")
    assert opened(run).persona == PERSONA
    add(run.folder / "data" / "validation" / "new.jsonl", "a new one")
    with pytest.raises(DatasetError, match="the dataset is not what"):
        opened(run)


def test_a_turn_of_validation_that_was_trained_on_too_is_one_labelled_twice(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    data = run.folder / "data"
    raw = (data / "train" / "nari.jsonl").read_bytes()
    (data / "validation" / "copy.jsonl").write_bytes(raw)
    assert main(["export", str(run.out), "--out", str(run.folder / "bundle")]) == 1
    assert "is labelled twice" in capsys.readouterr().err


def test_an_export_without_validation_is_refused_before_it_reads(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (run.folder / "data" / "validation").iterdir():
        path.unlink()
    assert main(["export", str(run.out), "--out", str(run.folder / "bundle")]) == 1
    assert "no validation split" in capsys.readouterr().err
