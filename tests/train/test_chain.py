"""Train, evaluate, export, serve, ask: the whole chain on a tiny base, in its two kinds.

The weights are random, so what is learned is little; that what serves is what was trained is exact.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from export.check import check_bundle
from export.merge_lora import WEIGHTS
from export.quantise import QuantType
from export.reporter import RichReporter
from heads.bundle import MODEL, file_sha256, load_bundle
from heads.clues import NO_CLUES
from heads.session import HeadsSession
from rag.world import load_world
from runtime.llama_backend import Chunk, LlamaContext
from runtime.sampling import SamplingParams
from server.cli import main
from tests.server.serving import opened, served
from tests.tiny_hf import make_tiny_hf
from tests.train.tiny_run import TinyRun, gguf_run, make_run
from train.checkpoint import BEST, LAST, read_persona, trained_sha256
from train.dataset import conversations, dataset_sha256, read_dataset
from train.export_run import REPORT, ExportOptions, ExportReport, export_run
from train.heads_files import read_trained_heads
from train.recall import open_writer
from train.run import world_sha256
from train.served import open_bundle
from train.states import readings
from train.trained import load_model, open_trained
from train.variants import EXPORT

pytestmark = pytest.mark.filterwarnings("ignore")  # peft and torch warn of each other

TYPES: tuple[QuantType, ...] = ("f32", "f16", "q8_0")
LEARNING = {"run__epochs": 4, "optimiser__lr": 1e-2, "optimiser__lr_rows": 1e-2}


@pytest.fixture(scope="module", params=["gguf", "hf"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A finished run: a GGUF in full precision, or Hugging Face weights in NF4."""
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PERSONA_CACHE", str(folder / "cache"))
        if request.param == "gguf":
            run = gguf_run(folder / "tiny", "gemma3")
        else:
            run = make_run(folder / "tiny", "hf", make_tiny_hf(folder))
        assert run.train(**LEARNING) == 0
        assert main(["export", str(run.out), "--out", str(bundle_of(run)), *EXPORTING]) == 0
    return run


EXPORTING = ["--types", *TYPES, "--refit", "0", "--threads", "1"]


def bundle_of(run: TinyRun) -> Path:
    return run.folder / "bundle"


def is_hf(run: TinyRun) -> bool:
    return (run.folder.parent / "hf").is_dir()


@pytest.fixture(autouse=True)
def same_cache(run: TinyRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(run.folder.parent / "cache"))


def report_of(run: TinyRun) -> dict[str, Any]:
    raw = (run.out / EXPORT / "parity.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, Any])


def test_hugging_face_weights_are_held_in_nf4_and_a_gguf_in_full_precision(run: TinyRun) -> None:
    from bitsandbytes.nn import Linear4bit  # noqa: PLC0415 (slow to import)

    with RichReporter(Console(quiet=True)) as reporter:
        model = load_model(open_trained(run.out, reporter))
    held: list[Any] = [m for m in model.lm.modules() if isinstance(m, Linear4bit)]
    assert bool(held) == is_hf(run)
    for layer in held:
        state: Any = layer.weight.quant_state
        assert state.quant_type == "nf4"
        assert state.nested


def test_a_base_passes_gradients_on_after_a_look_at_validation(run: TinyRun) -> None:
    """bitsandbytes would pack 4-bit weights for a CPU's inference, and lose the gradients."""
    with RichReporter(Console(quiet=True)) as reporter:
        lm: Any = load_model(open_trained(run.out, reporter)).lm
    frozen = lm.get_decoder().layers[0].mlp.gate_proj.base_layer
    read = torch.randn(5, frozen.in_features)
    with torch.no_grad():
        frozen.eval()(read)
    (gradient,) = torch.autograd.grad(frozen.train()(read.requires_grad_()).square().sum(), read)
    assert gradient.abs().max() > 0


def test_what_the_gguf_says_is_what_pytorch_says(run: TinyRun) -> None:
    """In F32 to the last digits; NF4 holds the base of the trained model more coarsely."""
    variants = {v["quantisation"]: v for v in report_of(run)["variants"]}
    assert list(variants) == list(TYPES)
    for variant in variants.values():
        assert variant["cosine_min"] > (0.8 if is_hf(run) else 0.99)
    if not is_hf(run):
        assert variants["f32"]["cosine_min"] > 0.9999
        assert variants["f32"]["delta_difference_max"] < 1e-3
        assert variants["f32"]["flags_agree"] == 1


def test_the_bundles_graph_gives_what_the_trained_heads_say(run: TinyRun) -> None:
    bundle = load_bundle(bundle_of(run))
    spec = bundle.manifest.heads
    heads = read_trained_heads(run.out / "best")
    session = HeadsSession(bundle.heads, spec, bundle.manifest.n_embd)
    states = np.random.default_rng(0).normal(0, 2, (9, bundle.manifest.n_embd)).astype(np.float32)
    expected = replace(heads, temperature=spec.temperature).predict(states)
    for found, wanted in zip(session.predict_batch(states, [NO_CLUES] * 9), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-3)


def test_the_bundle_is_whole_and_says_where_it_comes_from(run: TinyRun) -> None:
    assert [f for f in check_bundle(bundle_of(run)) if f.problem] == []
    manifest = load_bundle(bundle_of(run)).manifest
    report = report_of(run)
    assert manifest.quantisation == report["chosen"] in TYPES
    assert manifest.parity["quantisation"] == report["chosen"]
    assert manifest.training["config"]["run"]["epochs"] == LEARNING["run__epochs"]
    (model,) = (entry for entry in manifest.files if entry.path == MODEL)
    assert model.sha256 == file_sha256(run.out / EXPORT / report["chosen"] / MODEL)
    assert manifest.training["data_sha256"] == dataset_sha256(run.folder / "data")
    assert manifest.training["world_sha256"] == world_sha256(load_world(run.folder / "world"))
    assert str(run.folder) not in (bundle_of(run) / "bundle.json").read_text("utf-8")


def test_the_bundle_serves(run: TinyRun) -> None:
    with (
        opened(bundle_of(run), run.folder / "world") as service,
        served(service) as url,
        httpx.Client(base_url=url) as client,
    ):
        asked = {"text": "골무 찾아 드릴게요", "npc_id": "nari", "player_id": "p"}
        answer = client.post("/ask", json=asked | {"gen_params": {"max_tokens": 8}})
    assert answer.status_code == 200
    assert set(answer.json()["flags"]) == {"give_item", "npc_main_story", "quest_stage_change"}
    assert answer.json()["meta"]["path"] == "main"


def read_again(*_: object) -> None:
    raise AssertionError("the model was asked")


def test_the_bundle_is_evaluated_on_the_split_that_is_asked_for(
    run: TinyRun,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    untuned = run.out / EXPORT / "untrained-f16" / "model.gguf"
    options = ["--world", run.folder / "world", "--data", run.folder / "data"]
    options += ["--untuned", untuned, "--embedder", "none", "--replies", "2", "--out", tmp_path]
    args = ["evaluate", "bundle", str(bundle_of(run)), "--threads", "1", *map(str, options)]
    assert main(args) == 0
    shown = capsys.readouterr().out
    assert "macro-F1" in shown
    report = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=dict[str, Any])
    assert report["meta"]["split"] == "validation"
    tuned = report["perplexity"]["whole"]
    assert tuned["tuned"]["nll"] < tuned["untuned"]["nll"]
    assert report["lines"]["figures"]["whole"]["generated"]["num_lines"] == 1
    assert (tmp_path / "report.html").is_file()

    monkeypatch.setattr("train.states.StateReader.read", read_again)
    assert main([*args, "--no-decision"]) == 0
    again = msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=dict[str, Any])
    assert all(again[part] == report[part] for part in ("predictors", "perplexity"))


def test_what_a_line_is_drawn_from_does_not_depend_on_the_machines_pace(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_evaluated: list[int] = []
    decode = LlamaContext.decode

    def counted(context: LlamaContext, chunks: Sequence[Chunk], **options: Any) -> list[int]:
        num_evaluated.append(sum(len(chunk.tokens) for chunk in chunks))
        return decode(context, chunks, **options)

    world, splits = load_world(run.folder / "world"), read_dataset(run.folder / "data")
    with open_bundle(bundle_of(run), 1) as served:
        writer = open_writer(run.folder / "world", world, "none", served.encoder)
        wanted = readings(conversations(splits["validation"]).values(), writer)
        sampling = SamplingParams(seed=1, max_tokens=4)
        with served.engine() as engine:
            monkeypatch.setattr(LlamaContext, "decode", counted)
            served.reply(engine, wanted[0], 0, sampling, world)
        transcript = wanted[0].transcript
    asked = [*transcript.opening, *transcript.told, *transcript.turns[0].asked]
    assert num_evaluated[:2] == [len(asked) - 1, 1], "the prompt, then its state"


def test_what_is_kept_of_a_run_builds_the_same_weights(run: TinyRun, tmp_path: Path) -> None:
    options = ExportOptions(run.out, bundle_of(run), TYPES, None, 0, 1, keep=tmp_path / "kept")
    with RichReporter(Console(quiet=True)) as reporter:
        export_run(options, reporter)
    assert trained_sha256(tmp_path / "kept" / "adapter") == trained_sha256(run.out / BEST)
    config = open_trained(run.out, reporter).record.config
    source = config.base.hf or config.base.gguf
    quant = load_bundle(bundle_of(run)).manifest.quantisation
    command = ["bundle", "build", "--base", source, "--quant", quant, "--out", tmp_path / "again"]
    command += ["--adapter", tmp_path / "kept" / "adapter", "--heads", tmp_path / "kept"]
    assert main([*map(str, command), *(["--no-trim"] if is_hf(run) else [])]) == 0
    again, first = load_bundle(tmp_path / "again"), load_bundle(bundle_of(run))
    assert again.manifest.files == first.manifest.files
    assert again.manifest.parity == first.manifest.parity


def test_what_was_read_once_is_not_read_again(
    run: TinyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.states.StateReader.read", read_again)
    monkeypatch.setattr("train.variants.load_model", read_again)
    options = ExportOptions(run.out, bundle_of(run), TYPES, None, 0, 1)
    before = msgspec.json.decode((run.out / EXPORT / REPORT).read_bytes(), type=ExportReport)
    with RichReporter(Console(quiet=True)) as reporter:
        again = export_run(options, reporter)
    assert (again.untrained, again.merits) == (before.untrained, before.merits)


def test_an_export_killed_at_any_moment_leaves_a_whole_bundle_and_is_done_by_the_next(
    run: TinyRun, tmp_path: Path
) -> None:
    """The bundle is replaced by one of another type, and killed while that is made."""
    code = "import sys; from server.cli import main; sys.exit(main(sys.argv[1:]))"
    before = load_bundle(bundle_of(run)).id
    command = ["export", str(run.out), "--out", str(bundle_of(run)), *EXPORTING, "--quant", "q4_0"]
    start = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-c", code, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while not (run.out / EXPORT / "q4_0").exists() and process.poll() is None:
            assert time.monotonic() - start < 120
            time.sleep(0.01)
        time.sleep(np.random.default_rng().uniform(0, 0.5))
        process.kill()
    assert [f for f in check_bundle(bundle_of(run)) if f.problem] == []
    if process.returncode != 0:
        assert load_bundle(bundle_of(run)).manifest.quantisation in (*TYPES, "q4_0")
    assert main(command) == 0
    assert load_bundle(bundle_of(run)).manifest.quantisation == "q4_0"
    assert load_bundle(bundle_of(run)).id != before
    assert [f for f in check_bundle(bundle_of(run)) if f.problem] == []


def test_heads_that_cannot_be_fitted_anew_leave_the_trained_ones(run: TinyRun) -> None:
    """The handful of conversations has too few groups to choose anything by."""
    options = ExportOptions(run.out, bundle_of(run), TYPES, None, 3, 1)
    with RichReporter(Console(quiet=True)) as reporter:
        assert export_run(options, reporter).heads == {"flag": "trained", "delta": "trained"}


def test_the_last_step_is_opened_in_16_bits_where_that_is_asked_for(run: TinyRun) -> None:
    with RichReporter(Console(quiet=True)) as reporter:
        final = open_trained(run.out, reporter, LAST).adapter
    last, found = load_file(run.out / LAST / WEIGHTS), load_file(final / WEIGHTS)
    assert last.keys() == found.keys() == load_file(run.out / BEST / WEIGHTS).keys()
    for name, factor in found.items():
        assert factor.dtype == torch.float16
        torch.testing.assert_close(factor.float(), last[name], rtol=1e-3, atol=1e-6)
    assert read_persona(final) == read_persona(run.out / LAST)


def test_a_run_that_never_was_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "bundle")]) == 1
    assert "no run of `persona train`" in capsys.readouterr().err
