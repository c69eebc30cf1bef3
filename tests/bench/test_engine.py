"""`persona bench engine` on a tiny model: both sides do the same work, and every figure is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench import engine
from bench.engine import Case
from bench.players import DATA, make_prompts, read_players
from bench.raw_loops import C, EndlessModel, Measured, Work, run_engine, run_raw
from runtime.context_config import ContextConfig
from runtime.llama_backend import LlamaContext
from runtime.sampling import SamplingParams
from server.cli import main
from tests.tiny_models import make_tiny


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_tiny("qwen2", tmp_path_factory.mktemp("engine")).path


@pytest.fixture(scope="module")
def context(gguf: Path) -> Iterator[LlamaContext]:
    """A context for four sequences, with small batches."""
    model = EndlessModel(gguf)
    context = LlamaContext(model, ContextConfig(1_024, 4, n_batch=64, n_threads=1))
    yield context
    context.close()
    model.close()


def make_work(context: LlamaContext, count: int, num_prompt: int, num_tokens: int) -> Work:
    """Prompts of the demo world's players, a seed each."""
    prompts = make_prompts(context.model, read_players(DATA), count, num_prompt)
    samplings = [
        SamplingParams(temperature=0.7, top_p=0.9, seed=at, max_tokens=num_tokens)
        for at in range(count)
    ]
    return Work(prompts, samplings)


@pytest.mark.parametrize(("count", "num_prompt"), [(1, 16), (4, 16), (1, 150)])
def test_both_draw_the_same_tokens_as_many_as_asked_for(
    context: LlamaContext, count: int, num_prompt: int
) -> None:
    work = make_work(context, count, num_prompt, 24)
    raw, ours = run_raw(context, work), run_engine(context, work)
    assert [len(reply) for reply in raw.replies] == [24] * count
    assert ours.replies == raw.replies
    assert len(set(raw.replies)) == count
    assert run_raw(context, work).replies == raw.replies


def test_time_inside_llama_cpp_is_that_of_decoding_alone(context: LlamaContext) -> None:
    found = run_engine(context, make_work(context, 2, 32, 24))
    assert 0 < found.calls_s < found.decode_s
    assert found.first_s > 0
    once = run_engine(context, make_work(context, 1, 32, 1))
    assert once.calls_s == 0


def test_llama_cpp_is_watched_no_longer_than_the_engine_runs(context: LlamaContext) -> None:
    before = C.llama_decode, C.llama_sampler_sample
    run_engine(context, make_work(context, 1, 16, 2))
    assert (C.llama_decode, C.llama_sampler_sample) == before
    with pytest.raises(ValueError, match="token 999999"):
        run_engine(context, Work([[999_999]], [SamplingParams()]))
    assert (C.llama_decode, C.llama_sampler_sample) == before


def case_of(pairs: list[tuple[float, float]], *, inside: float = 0.99) -> Case:
    """A case of 10 tokens a run: seconds of the engine and of the C API."""
    case = Case("decode", Work([[1]], [SamplingParams(max_tokens=11)]), 0.97)
    for ours, raw in pairs:
        case.engine.append(Measured([(1, 2)], 0.5, ours, ours * inside))
        case.raw.append(Measured([(1, 2)], 0.5, raw))
    return case


def test_speed_counts_the_tokens_between_the_first_and_the_last() -> None:
    case = case_of([(2.0, 1.0), (4.0, 2.0)])
    assert case.speeds(case.engine) == [5.0, 2.5]
    assert case.ratio.median == pytest.approx(0.5)
    prefill = Case("prefill", Work([[1] * 30], [SamplingParams(max_tokens=1)]), None)
    assert prefill.speeds([Measured([(1,)], 0.5, 0)]) == [60.0]
    assert prefill.share is None
    assert prefill.is_good


def test_a_case_is_judged_by_the_low_end_of_its_ratio_and_by_its_share() -> None:
    assert case_of([(1.0, 0.99)] * 5).is_good
    assert not case_of([(1.0, 0.96)] * 5).is_good
    assert not case_of([(1.0, 1.2), (1.0, 0.8), (1.0, 1.0)]).is_good
    assert not case_of([(1.0, 0.99)] * 5, inside=0.96).is_good
    odd = case_of([(1.0, 1.0)] * 3)
    odd.raw[1] = Measured([(1, 3)], 0.5, 1.0)
    assert odd.num_same == 2


def test_every_figure_is_told_and_drawn(
    gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("MIN_ALONE", "MIN_TOGETHER", "MIN_SHARE"):
        monkeypatch.setattr(engine, name, 0.0)
    report, plot = tmp_path / "a.json", tmp_path / "a.png"
    options = ["--sequences", "1", "2", "--prompts", "600", "--tokens", "4", "--threads", "1"]
    files = ["--json", str(report), "--plot", str(plot)]
    assert main(["bench", "engine", "--model", str(gguf), *options, "--runs", "2", *files]) == 0
    content: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    alone, together, prefill = content["figures"]
    assert [alone["name"], together["name"], prefill["name"]] == [
        "decode, 1 alone",
        "decode, 2 together",
        "prefill, 600 tokens",
    ]
    for figure in content["figures"]:
        assert len(figure["engine_tokens_per_s"]) == len(figure["raw_tokens_per_s"]) == 2
        assert 0 < figure["ratio"]["low"] <= figure["ratio"]["high"]
        assert figure["num_same_tokens"] == 2
    assert 0 < alone["share_inside_llama_cpp"] < 1
    assert prefill["share_inside_llama_cpp"] is None
    assert (together["prompt_tokens"], prefill["prompt_tokens"]) == (256, 600)
    assert content["settings"]["model"] == gguf.name
    assert plot.stat().st_size > 1_000
    assert "same tokens" in capsys.readouterr().out


def test_a_missed_bound_is_an_exit_code(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MIN_ALONE", 1e6)
    few = ["--sequences", "1", "--prompts", "--tokens", "2", "--runs", "1", "--threads", "1"]
    assert main(["bench", "engine", "--model", str(gguf), *few]) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runs", "0"], "--runs is 0; it must be from 1"),
        (["--tokens", "1"], "--tokens is 1; it must be from 2"),
        (["--prompt-tokens", "7"], "--prompt-tokens is 7"),
        (["--sequences", "1", "65"], "--sequences is 65; it must be from 1 to 64"),
        (["--prompts", "0"], "--prompts is 0"),
        (["--threads", "0"], "--threads is 0"),
        (["--sequences", "--prompts"], "nothing to measure"),
        (["--prompts", "1024"], "trained on 1024 at most"),
        (["--data", "no-such-folder"], "no-such-folder: no *.jsonl"),
        (["--model", "no-such.gguf"], "no-such.gguf: no such file"),
    ],
)
def test_bad_arguments_are_told(
    gguf: Path, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "engine", "--model", str(gguf), *options]) == 1
    assert said in capsys.readouterr().err
