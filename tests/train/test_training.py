"""Runs of `persona train` on a tiny base: what they log, and how they survive being stopped."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from export.merge_lora import PERSONA, SPECIAL_ROWS, WEIGHTS
from server.cli import main
from tests.train.tiny_run import TinyRun, gguf_run
from train.checkpoint import BEST, LAST
from train.heads_files import HEADS_WEIGHTS
from train.run import RUN
from train.run_log import CURVES, LOG, read_log
from train.trainer import MultiHeadTrainer

pytestmark = pytest.mark.filterwarnings("ignore")  # peft and torch warn of each other


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def run(tmp_path: Path) -> TinyRun:
    return gguf_run(tmp_path / "tiny")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_CACHE", str(folder / "cache"))
        run = gguf_run(folder / "tiny")
        assert run.train() == 0
    return run


def assert_same_rows(run: TinyRun, whole: TinyRun) -> None:
    for kind in ("train", "validation"):
        found, expected = run.rows(kind), whole.rows(kind)
        assert [row["step"] for row in found] == [row["step"] for row in expected]
        for row, other in zip(found, expected, strict=True):
            numbers = {name: value for name, value in other.items() if name != "kind"}
            assert {name: row[name] for name in numbers} == pytest.approx(numbers, rel=1e-4)


def test_a_run_leaves_adapter_rows_heads_log_and_curves(whole: TinyRun) -> None:
    parts = {"adapter_config.json", WEIGHTS, SPECIAL_ROWS, HEADS_WEIGHTS, PERSONA}
    assert {path.name for path in (whole.out / BEST).iterdir()} == parts
    assert {path.name for path in (whole.out / LAST).iterdir()} > parts
    assert (whole.out / CURVES).read_bytes().startswith(b"\x89PNG")
    assert list((whole.out / "tensorboard").iterdir())
    assert [row["step"] for row in whole.rows()] == list(range(1, 9))
    assert [row["step"] for row in whole.rows("validation")] == [0, 2, 4, 6, 8]
    for row in whole.rows():
        parts_of_loss = row["lm"] + 3 * row["delta"] + 3 * row["flag"]
        assert row["loss"] == pytest.approx(parts_of_loss, rel=1e-4)


def test_every_part_of_the_loss_falls_on_conversations_seen_again_and_again(run: TinyRun) -> None:
    faster = {"optimiser__lr": 1e-2, "optimiser__lr_rows": 1e-2, "optimiser__lr_heads": 2e-3}
    assert run.train(run__epochs=16, run__eval_steps=99, optimiser__accumulation=8, **faster) == 0
    rows = run.rows()
    for part in ("lm", "delta", "flag"):
        assert rows[-1][part] < 0.8 * rows[0][part], part


def test_a_run_stopped_by_a_signal_goes_on_to_the_losses_of_one_that_was_not(
    run: TinyRun, whole: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = MultiHeadTrainer._step

    def interrupted(trainer: MultiHeadTrainer, *args: Any) -> dict[str, float]:
        if trainer.progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(trainer, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MultiHeadTrainer, "_step", interrupted)
        assert run.train() == 130
    assert [row["step"] for row in run.rows()] == [1, 2, 3]
    assert run.train() == 0
    assert_same_rows(run, whole)


def test_a_run_killed_at_any_moment_goes_on_to_the_losses_of_one_that_was_not(
    run: TinyRun, whole: TinyRun, tmp_path: Path
) -> None:
    """Killed twice, somewhere between two rows of the log: while it computes or while it saves."""
    draw = random.Random()
    for num_rows in (2, 7):
        kill_after(run, num_rows, draw.uniform(0, 0.15), tmp_path / "cache")
    assert run.train() == 0
    assert_same_rows(run, whole)
    assert not [path for path in run.out.iterdir() if path.suffix in (".new", ".old")]


def kill_after(run: TinyRun, num_rows: int, seconds: float, cache: Path) -> None:
    """Train in a process of its own, and kill it so long after its log has so many rows."""
    code = "import sys; from server.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *run.arguments()]
    with subprocess.Popen(
        command,
        env=os.environ | {"PERSONA_CACHE": str(cache), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        deadline = time.monotonic() + 120
        while len(read_log(run.out / LOG)) < num_rows and time.monotonic() < deadline:
            assert process.poll() is None, "it ended before it was killed"
            time.sleep(0.01)
        time.sleep(seconds)
        process.kill()


def test_a_run_that_is_done_is_not_trained_again(whole: TinyRun, tmp_path: Path) -> None:
    before = (whole.out / LOG).read_bytes(), (whole.out / BEST / WEIGHTS).read_bytes()
    assert whole.train() == 0
    assert ((whole.out / LOG).read_bytes(), (whole.out / BEST / WEIGHTS).read_bytes()) == before


def test_another_configuration_or_dataset_does_not_go_on_in_a_runs_folder(
    whole: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert whole.train(run__seed=1) == 1
    error = capsys.readouterr().err
    assert "holds a run of another config; give another --out" in error
    lines = whole.folder / "data" / "train" / "nari.jsonl"
    text = lines.read_text("utf-8")
    try:
        lines.write_text(text.replace("골무 찾아", "골무를 찾아"), "utf-8")
        assert whole.train() == 1
    finally:
        lines.write_text(text, "utf-8")
    assert "another data_sha256" in capsys.readouterr().err


def test_a_run_begun_before_it_was_recorded_what_it_learns_goes_on(
    whole: TinyRun, tmp_path: Path
) -> None:
    older = TinyRun(shutil.copytree(whole.folder, tmp_path / "older"))
    record = msgspec.json.decode((older.out / RUN).read_bytes())
    del record["learned_sha256"]
    (older.out / RUN).write_bytes(msgspec.json.encode(record))
    arguments = whole.arguments()
    arguments[arguments.index(str(whole.out))] = str(older.out)
    assert main(arguments) == 0
    assert "learned_sha256" in msgspec.json.decode((older.out / RUN).read_bytes())


def test_gradient_checkpointing_changes_no_loss(run: TinyRun, whole: TinyRun) -> None:
    assert run.train(run__gradient_checkpointing=True) == 0
    assert_same_rows(run, whole)


def test_a_run_that_no_longer_improves_ends_early(run: TinyRun) -> None:
    still = {"optimiser__lr": 1e-12, "optimiser__lr_rows": 1e-12, "optimiser__lr_heads": 1e-12}
    assert run.train(run__patience=2, run__eval_steps=1, **still) == 0
    assert len(run.rows()) < 8


def test_another_seed_gives_another_run(run: TinyRun, whole: TinyRun) -> None:
    assert run.train(run__seed=7) == 0
    assert [row["lm"] for row in run.rows()] != [row["lm"] for row in whole.rows()]


def test_a_run_begins_with_the_best_of_another(
    run: TinyRun, whole: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begin = [*run.arguments(optimiser__lr=1e-4), "--from"]
    assert main([*begin, str(whole.out)]) == 0
    last = max(whole.rows("validation"), key=lambda row: row["composite"])
    first = run.rows("validation")[0]
    for name in ("lm", "delta", "flag"):
        assert first[name] == pytest.approx(last[name], rel=1e-2), name  # shipped in 16 bits
    assert main([*begin, str(whole.out / BEST)]) == 0, "the same start, named as an adapter"
    assert main(run.arguments(optimiser__lr=1e-4)) == 1
    assert "holds a run of another start_sha256" in capsys.readouterr().err
    assert main([*begin, str(tmp_path)]) == 1
    assert "no trained adapter" in capsys.readouterr().err


def test_what_predicts_something_else_is_nothing_to_begin_with(
    run: TinyRun, whole: TinyRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(whole.out / BEST, tmp_path / "other" / BEST)
    persona = tmp_path / "other" / BEST / PERSONA
    persona.write_text(persona.read_text("utf-8").replace("give_item", "give_gold"), "utf-8")
    assert main([*run.arguments(), "--from", str(tmp_path / "other")]) == 1
    assert "was trained for" in capsys.readouterr().err


def test_a_dataset_without_validation_is_refused(
    run: TinyRun, capsys: pytest.CaptureFixture[str]
) -> None:
    (run.folder / "data" / "validation" / "nari.jsonl").unlink()
    assert run.train() == 1
    assert "no validation split" in capsys.readouterr().err


def test_two_processes_at_one_run_are_one_too_many(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.run import locked_run  # noqa: PLC0415 (imports PyTorch)

    with locked_run(run.out):
        assert run.train() == 1
    assert "another process trains in" in capsys.readouterr().err


def test_two_processes_together_have_the_losses_of_one_with_twice_the_accumulation(
    tmp_path: Path,
) -> None:
    """As `accelerate launch` starts them; without dropout, which each process draws for itself.

    Four examples: three conversations, and the one with a past rebuilt.
    """
    settings = {"lora__dropout": 0.0, "loss__state_noise": 0.0, "data__rebuilt_share": 1.0}
    alone, together = (gguf_run(tmp_path / name) for name in ("alone", "together"))
    assert alone.train(optimiser__accumulation=4, **settings) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, "-m", "server.cli", *together.arguments(optimiser__accumulation=2, **settings)],
        env=os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_same_rows(together, alone)


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_what_was_saved(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.multi_head import MultiHeadModel  # noqa: PLC0415 (imports PyTorch)

    losses = MultiHeadModel.losses

    def diverging(model: MultiHeadModel, *args: Any) -> Any:
        found = losses(model, *args)
        found.lm.mul_(float("nan") if model.training and len(run.rows()) == 2 else 1)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(MultiHeadModel, "losses", diverging)
        assert run.train() == 1
    error = capsys.readouterr().err
    assert "step 3: losses lm nan" in error
    assert [row["step"] for row in run.rows()] == [1, 2]
    assert run.train() == 0


def test_a_run_that_learned_nothing_is_exported_all_the_same(run: TinyRun, tmp_path: Path) -> None:
    still = {"optimiser__lr": 1e-12, "optimiser__lr_rows": 1e-12, "optimiser__lr_heads": 1e-12}
    assert run.train(run__patience=1, run__eval_steps=1, **still) == 0
    options = ["--types", "f16", "--refit", "0", "--threads", "1"]
    assert main(["export", str(run.out), "--out", str(tmp_path / "bundle"), *options]) == 0
