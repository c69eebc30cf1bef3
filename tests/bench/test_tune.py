"""`persona tune` on a tiny model, and what is taken for better."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.progress import Progress

from bench import tune, tune_load
from bench.tune_load import NUM_CACHED, NUM_FIRST, Workload, write_prompt
from bench.tune_search import Figure, Knob, Referee, Setup, Trial, thread_values
from heads.bundle import ContextSettings, load_bundle
from rag.world import load_world
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.host import num_cores
from runtime.llama_backend import LlamaModel
from server.cli import INTERRUPTED, main
from server.tuned import Tuned, read_tuned, tuned_file
from tests.server.small_world import write_small_world
from tests.tiny_bundle import write_tiny_bundle

START = Setup(threads=2, threads_batch=2, step_tokens=512, ubatch_tokens=512, kv_type="f16")
THREADS = Knob("threads", (1, 2, 3), ("turn",))

Speed = Callable[[Setup, int], Mapping[Figure, float] | None]


class Stopwatch:
    """Tells the seconds that `speed` makes of a setup and the number of its run."""

    def __init__(self, speed: Speed) -> None:
        self._speed = speed
        self.num_runs: dict[Setup, int] = {}

    def measure(self, setup: Setup, figures: Sequence[Figure]) -> Mapping[Figure, float] | None:
        at = self.num_runs.get(setup, 0)
        self.num_runs[setup] = at + 1
        return self._speed(setup, at)


def tried(speed: Speed, knob: Knob = THREADS, num_runs: int = 5) -> tuple[Trial, Stopwatch]:
    watch = Stopwatch(speed)
    return Referee(watch.measure, num_runs, lambda: None).try_knob(knob, START), watch


def test_the_fastest_value_is_taken() -> None:
    seconds = {1: 0.9, 2: 1.0, 3: 0.8}
    trial, _ = tried(lambda setup, _: {"turn": seconds[setup.threads]})
    assert trial.best == replace(START, threads=3)


@pytest.mark.parametrize("seconds", [1.0, 0.98, 1.5])
def test_a_value_within_noise_or_worse_changes_nothing(seconds: float) -> None:
    trial, _ = tried(lambda setup, _: {"turn": 1.0 if setup == START else seconds})
    assert trial.best == START


def test_a_gain_that_comes_and_goes_is_none() -> None:
    trial, _ = tried(lambda setup, at: {"turn": 1.0 if setup == START or at % 2 else 0.7})
    assert max(ratio["turn"].median for ratio in map(trial.ratios, trial.others)) > 1.3
    assert trial.best == START


def test_a_gain_that_costs_another_figure_is_none() -> None:
    def speed(setup: Setup, at: int) -> Mapping[Figure, float]:
        return {"turn": 1.0, "replies": 1.0} if setup == START else {"turn": 0.8, "replies": 1.1}

    assert tried(speed)[0].best == START


def test_a_value_that_cannot_win_any_more_is_not_measured_any_more() -> None:
    seconds = {1: 1.3, 2: 1.0, 3: 0.8}
    _, watch = tried(lambda setup, _: {"turn": seconds[setup.threads]}, num_runs=7)
    num_runs = {setup.threads: count for setup, count in watch.num_runs.items()}
    assert num_runs == {1: 4, 2: 7, 3: 7}


def test_a_value_that_llama_cpp_refuses_is_passed_over() -> None:
    trial, watch = tried(lambda setup, _: None if setup.threads == 3 else {"turn": 1.0})
    assert trial.best == START
    assert [other.is_possible for other in trial.others] == [True, False]
    assert watch.num_runs[replace(START, threads=3)] == 1


class Fickle(Workload):
    """Each of its setups but the first is fast until it has been measured `num_good` times."""

    def __init__(self, num_good: int) -> None:
        self._watch = Stopwatch(
            lambda setup, at: {"turn": 1.0 if setup == START or at >= num_good else 0.5}
        )

    def measure(self, setup: Setup, figures: Sequence[Figure]) -> Mapping[Figure, float] | None:
        return self._watch.measure(setup, figures)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("num_good", "threads"), [(10, 1), (5, 2)])
def test_a_gain_must_show_again_when_all_changes_are_together(num_good: int, threads: int) -> None:
    knob = Knob("threads", (1, 2), ("turn",))
    with Progress(disable=True) as progress:
        found = tune._search(START, [knob], Fickle(num_good), 5, progress)
    assert found.trials[0][1].best.threads == 1
    assert found.best.threads == threads


def test_what_may_not_be_written_is_tried_but_not_taken() -> None:
    knob = Knob("kv_type", ("f16", "q8_0"), ("turn",), is_written=False)
    with Progress(disable=True) as progress:
        found = tune._search(START, [knob], Fickle(10), 5, progress)
    assert found.trials[0][1].best.kv_type == "q8_0"
    assert found.best == START
    assert found.outcome is None


def test_thread_counts_are_few_and_never_more_than_the_cores() -> None:
    assert [thread_values(n) for n in (1, 2, 4, 64)] == [
        [1],
        [1, 2],
        [1, 2, 3, 4],
        [16, 32, 63, 64],
    ]


@pytest.fixture(scope="module")
def world_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small world."""
    return write_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle."""
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def load(qwen: LlamaModel, world_folder: Path) -> Iterator[Workload]:
    """What is timed, on a tiny model."""
    encoder = PromptEncoder(qwen, find_special_ids(qwen))
    tokens = write_prompt(load_world(world_folder), encoder)
    found = Workload(qwen, tokens, encoder.state_id, ContextSettings())
    yield found
    found.close()


def test_prompts_begin_as_served_ones_do(qwen: LlamaModel, world_folder: Path) -> None:
    encoder = PromptEncoder(qwen, find_special_ids(qwen))
    tokens = write_prompt(load_world(world_folder), encoder)
    assert len(tokens) == NUM_CACHED + NUM_FIRST
    assert tokens[:2] == [qwen.bos, qwen.find_token("<SYS>")]
    assert qwen.find_token("<CTX>") in tokens
    text = b"".join(map(qwen.piece, tokens)).decode(errors="replace")
    assert "등대지기" in text
    assert "부두의 밤" in text


def test_every_figure_is_measured_as_often_as_asked(load: Workload) -> None:
    setup = replace(START, threads=1, threads_batch=1, step_tokens=64)
    for _ in range(2):
        found = load.measure(setup, ("turn", "replies", "first", "step"))
        assert found is not None
        assert found.keys() == {"turn", "replies", "first", "step"}
        assert 0 < found["step"] < found["first"]
        assert min(found.values()) > 0


def test_a_cache_that_the_model_cannot_have_is_none(load: Workload) -> None:
    # a head has 16 numbers, a block of q8_0 32
    assert load.measure(replace(START, kv_type="q8_0"), ("turn",)) is None


@pytest.fixture
def served(
    bundle_folder: Path, world_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The bundle's id; bundle, world and an empty cache are in the environment."""
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PERSONA_BUNDLE", str(bundle_folder))
    monkeypatch.setenv("PERSONA_WORLD", str(world_folder))
    for name in ("THREADS", "THREADS_BATCH", "STEP_TOKENS"):
        monkeypatch.delenv(f"PERSONA_{name}", raising=False)
    return load_bundle(bundle_folder).id


def test_what_is_found_is_shown_and_written_for_the_server(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report_file = tmp_path / "report.json"
    assert main(["tune", "--runs", "3", "--json", str(report_file)]) == 0
    out = capsys.readouterr().out
    for word in ("n_ubatch", "KV type", "tokens a step", "in force", "calibrated"):
        assert word in out
    report = msgspec.json.decode(report_file.read_bytes(), type=dict[str, Any])
    best = report["figures"]["best"]
    written = read_tuned(served)
    assert written == Tuned(best["threads"], best["threads_batch"], best["step_tokens"])
    assert str(written) in out
    assert (best["ubatch_tokens"], best["kv_type"]) == (512, "f16")
    trials = {trial["setting"]: trial for trial in report["figures"]["trials"]}
    assert list(trials) == ["threads", "threads_batch", "ubatch_tokens", "kv_type", "step_tokens"]
    values = [other["runs"]["setup"]["step_tokens"] for other in trials["step_tokens"]["others"]]
    assert values == [64, 128, 256]
    figures = trials["step_tokens"]["present"]["seconds"]
    assert figures.keys() == {"first", "step"}
    assert all(seconds > 0 for runs in figures.values() for seconds in runs)


def test_a_dry_run_writes_nothing_and_a_set_variable_is_where_it_starts(
    served: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PERSONA_THREADS", str(num_cores() + 1))
    report_file = tmp_path / "report.json"
    assert main(["tune", "--runs", "3", "--dry-run", "--json", str(report_file)]) == 0
    assert not tuned_file().exists()
    report = msgspec.json.decode(report_file.read_bytes(), type=dict[str, Any])
    start = report["figures"]["trials"][0]["present"]["setup"]
    assert (start["threads"], start["threads_batch"]) == (num_cores() + 1, num_cores() + 1)


def test_a_variable_that_wins_over_what_was_written_is_named(
    served: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONA_STEP_TOKENS", "256")
    assert main(["tune", "--runs", "3"]) == 0
    assert "PERSONA_STEP_TOKENS is set and wins" in capsys.readouterr().out
    assert read_tuned(served) is not None


def test_an_interrupted_run_writes_nothing(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = iter(range(7))
    measure = tune_load.Workload.measure

    def interrupted(load: Workload, setup: Setup, figures: Sequence[Figure]) -> Any:
        if next(runs, None) is None:
            raise KeyboardInterrupt
        return measure(load, setup, figures)

    monkeypatch.setattr(tune_load.Workload, "measure", interrupted)
    assert main(["tune", "--runs", "3"]) == INTERRUPTED
    assert next(runs, None) is None
    assert not tuned_file().parent.exists()


@pytest.mark.parametrize("runs", ["2", "0", "-1", "101"])
def test_too_few_or_too_many_runs_are_told(
    runs: str, served: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--runs", runs]) == 1
    assert f"--runs is {runs}; it must be from 3 to 100" in capsys.readouterr().err


def test_a_missing_bundle_is_told_with_its_remedy(
    served: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "--bundle", str(tmp_path / "none")]) == 1
    assert "persona bundle build" in capsys.readouterr().err


def test_a_bundle_of_tiny_batches_is_told(
    served: str, bundle_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(bundle_folder, tmp_path / "bundle"))
    manifest = msgspec.json.decode((copy / "bundle.json").read_bytes())
    manifest["context"] = {"n_batch": 16}
    (copy / "bundle.json").write_bytes(msgspec.json.encode(manifest))
    assert main(["tune", "--bundle", str(copy)]) == 1
    assert "n_batch is 16" in capsys.readouterr().err
