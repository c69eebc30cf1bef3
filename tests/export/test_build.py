import argparse
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest

from export import base_model
from export.base_model import notice
from export.build import MODEL_RECORD, ModelRecord, build
from export.build_key import BuildOptions
from export.check import check_bundle
from export.cli import add_commands, build_options
from export.errors import BuildError, VocabularyError
from export.gguf_file import read_gguf
from export.vocabulary import TOKENS, model_vocabulary_sha256
from heads.bundle import AGREEMENT, HEADS, HEADS_RECORD, MANIFEST, MODEL, BundleError, load_bundle
from runtime.llama_backend import LlamaModel
from tests.export.bundles import SPEC, Recorder, make_options, write_graph
from tests.tiny_models import ARCHITECTURES, Architecture

ROOT = Path(__file__).parents[2]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def leftovers(options: BuildOptions) -> list[str]:
    names = sorted(path.name for path in options.out.parent.iterdir())
    return [name for name in names if name not in (options.out.name, f".{options.out.name}.lock")]


@pytest.fixture
def options(tmp_path: Path) -> BuildOptions:
    return make_options(tmp_path)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_built_bundle_loads_and_passes_every_check(
    architecture: Architecture, tmp_path: Path
) -> None:
    options = make_options(tmp_path, architecture)
    assert build(options, Recorder())
    bundle = load_bundle(options.out)
    assert [finding for finding in check_bundle(options.out) if finding.problem] == []
    manifest = bundle.manifest
    assert (manifest.architecture, manifest.quantisation) == (architecture, "q8_0")
    assert (manifest.heads, manifest.evaluation) == (SPEC, {"f1": 0.5})
    assert manifest.training["num_turns"] == 7
    model = LlamaModel(bundle.model)
    assert all(model.find_token(k) == token for k, token in manifest.special_tokens.items())
    model.close()
    assert leftovers(options) == []


def test_a_second_build_does_nothing_and_says_so(options: BuildOptions) -> None:
    assert build(options, Recorder())
    before = {path: path.stat().st_mtime_ns for path in options.out.rglob("*")}
    recorder = Recorder()
    assert not build(options, recorder)
    assert recorder.stages == ["verifying"]
    assert recorder.lines == [f"{options.out} is up to date"]
    assert {path: path.stat().st_mtime_ns for path in options.out.rglob("*")} == before


def test_building_again_by_force_gives_the_same_bytes(options: BuildOptions) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    assert build(replace(options, force=True), Recorder())
    assert hashes(options.out) == before


def test_a_changed_option_or_input_builds_again(options: BuildOptions) -> None:
    build(options, Recorder())
    assert build(replace(options, quant="f16"), Recorder())
    assert not build(replace(options, quant="f16"), Recorder())
    record = options.heads / HEADS_RECORD
    record.write_bytes(record.read_bytes().replace(b"0.5", b"0.6"))
    assert build(replace(options, quant="f16"), Recorder())


@pytest.mark.parametrize("name", [MODEL, HEADS, MANIFEST])
def test_a_damaged_bundle_is_built_again(options: BuildOptions, name: str) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    with (options.out / name).open("r+b") as file:
        file.seek(40)
        file.write(b"\xff\xff")
    assert build(options, Recorder())
    assert hashes(options.out) == before


@pytest.mark.parametrize("stage", ["trimming", "writing", "checking"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("anything")])
def test_whatever_fails_leaves_the_previous_bundle_intact(
    options: BuildOptions, stage: str, error: BaseException
) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    with pytest.raises(type(error)):
        build(replace(options, quant="f16"), Recorder(fail_at=stage, error=error))
    assert hashes(options.out) == before
    assert leftovers(options) == []


def run_apart(options: BuildOptions, how: str, argument: str) -> subprocess.CompletedProcess[str]:
    script = [sys.executable, "-m", "tests.export.build_once"]
    paths = [str(options.out), str(options.base), str(options.heads)]
    return subprocess.run(
        [*script, *paths, how, argument], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_a_full_disk_is_a_clear_error_and_the_previous_bundle_intact(options: BuildOptions) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    result = run_apart(options, "disk", "50000")
    assert result.returncode == 1
    assert "found a full disk" in result.stderr
    assert "free some space, or choose another place" in result.stderr
    assert hashes(options.out) == before
    assert leftovers(options) == []


def test_what_a_killed_build_left_is_removed_by_the_next(options: BuildOptions) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    result = run_apart(options, "kill", "checking")
    assert result.returncode == -signal.SIGKILL
    assert leftovers(options) == [".out.new"]
    assert hashes(options.out) == before
    assert not build(options, Recorder())
    assert leftovers(options) == []


def test_a_build_killed_between_the_renames_gives_the_previous_bundle_back(
    options: BuildOptions,
) -> None:
    build(options, Recorder())
    before = hashes(options.out)
    options.out.rename(options.out.with_name(".out.old"))
    assert not build(options, Recorder())
    assert hashes(options.out) == before


def test_a_folder_with_someones_files_is_never_replaced(options: BuildOptions) -> None:
    options.out.mkdir(parents=True)
    (options.out / "thesis.txt").write_text("years of work")
    with pytest.raises(BuildError, match=r"thesis\.txt.*choose another --out"):
        build(options, Recorder())
    assert (options.out / "thesis.txt").exists()


def test_a_folder_elsewhere_is_built_through_a_link(options: BuildOptions, tmp_path: Path) -> None:
    options.out.parent.mkdir()
    options.out.symlink_to(tmp_path / "elsewhere")
    for quant in ("q8_0", "f16", "q8_0"):
        assert build(replace(options, quant=quant), Recorder())
    assert not build(options, Recorder())
    assert options.out.is_symlink()
    assert load_bundle(options.out).manifest.name == "out"


def test_heads_of_another_vocabulary_are_refused(options: BuildOptions) -> None:
    path = options.heads / HEADS_RECORD
    record = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(record | {"vocabulary_sha256": "0" * 64}))
    with pytest.raises(BuildError, match=f"{'0' * 64}.*persona heads fit"):
        build(options, Recorder())
    assert not options.out.exists()


def test_heads_of_another_width_are_refused(options: BuildOptions) -> None:
    write_graph(options.heads / HEADS, n_embd=32)
    with pytest.raises(BundleError, match=r"\[batch, 64\]"):
        build(options, Recorder())


def test_heads_with_weights_in_another_file_are_refused(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(options.heads)
    whole = onnx.load(HEADS)
    onnx.save_model(
        whole, HEADS, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    with pytest.raises(BundleError, match="in one file"):
        build(options, Recorder())
    assert not options.out.exists()


def test_heads_that_change_while_a_bundle_is_built_are_refused(options: BuildOptions) -> None:
    class Meddler(Recorder):
        def stage(self, name: str, num_bytes: int | None = None) -> Callable[[int], None]:
            if name.startswith("writing"):
                write_graph(options.heads / HEADS, num_flags=3)
            return super().stage(name, num_bytes)

    with pytest.raises(BundleError, match=r"`flag` of shape \[batch, 1\]"):
        build(options, Meddler())
    assert not options.out.exists()


def test_an_agreement_that_is_none_is_refused(options: BuildOptions) -> None:
    (options.heads / AGREEMENT).write_bytes(b"{}")
    with pytest.raises(BundleError, match="persona heads agreement"):
        build(options, Recorder())
    assert not options.out.exists()


@pytest.mark.parametrize("content", [b"\xff", b'{"training": {"a": ' + b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_refused(options: BuildOptions, content: bytes) -> None:
    (options.heads / HEADS_RECORD).write_bytes(content)
    with pytest.raises(BuildError, match="persona heads fit"):
        build(options, Recorder())


def test_missing_heads_are_an_error_before_any_work(options: BuildOptions) -> None:
    (options.heads / HEADS_RECORD).unlink()
    recorder = Recorder()
    with pytest.raises(BuildError, match=r"heads\.json.*persona heads fit"):
        build(options, recorder)
    assert recorder.stages == []


def test_a_model_only_build_needs_no_heads_and_records_the_vocabulary(
    options: BuildOptions,
) -> None:
    alone = replace(options, model_only=True, heads=Path("nowhere"))
    assert build(alone, Recorder())
    assert not build(alone, Recorder())
    record = msgspec.json.decode((options.out / MODEL_RECORD).read_bytes(), type=ModelRecord)
    model = read_gguf(options.out / MODEL)
    assert record.base.vocabulary_sha256 == model_vocabulary_sha256(model)
    assert record.num_tokens == len(model.get(TOKENS))


def test_without_trimming_the_whole_vocabulary_stays(options: BuildOptions) -> None:
    assert options.base is not None
    whole = replace(options, trim=False, model_only=True)
    build(whole, Recorder())
    num_tokens = len(read_gguf(options.base).get(TOKENS))
    assert len(read_gguf(options.out / MODEL).get(TOKENS)) == num_tokens


def test_a_corpus_decides_what_is_kept(options: BuildOptions, tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("안녕하세요 the sword\n", encoding="utf-8")
    build(replace(options, corpus=(corpus,), model_only=True), Recorder())
    tokens = read_gguf(options.out / MODEL).get(TOKENS)
    assert {"안녕하세요", "▁sword"} <= set(tokens)
    assert "▁thank" not in tokens


def test_a_vocabulary_that_lost_something_is_not_shipped(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.trim_vocab.check", lambda base, trimmed: ["'가' is no token"])
    with pytest.raises(VocabularyError, match="'가' is no token"):
        build(options, Recorder())
    assert not options.out.exists()


def test_the_notice_names_the_terms_of_the_base(options: BuildOptions) -> None:
    build(options, Recorder())
    text = (options.out / "LICENSES" / "NOTICE.txt").read_text()
    assert "ai.google.dev/gemma/terms" in text
    assert "vocabulary cut from" in text


def test_a_non_commercial_base_says_so(tmp_path: Path) -> None:
    options = make_options(tmp_path, "qwen2")
    assert options.base is not None
    model = read_gguf(options.base)
    model.metadata["general.license"] = replace(
        model.metadata["general.name"], value="qwen-research"
    )
    assert base_model.is_non_commercial(model)
    assert "Apache-2.0" in notice(model, ["nothing"])


def test_without_the_packaged_base_the_error_names_the_extra(
    options: BuildOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, base_model.PACKAGE, None)
    with pytest.raises(BuildError, match=r"pip install 'persona-chat-engine\[demo\]'"):
        build(replace(options, base=None), Recorder())


def test_the_base_is_built_without_the_shipped_adapter_if_asked() -> None:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers())
    options = build_options(parser.parse_args(["bundle", "build"]))
    assert options.adapter is not None
    untrained = build_options(parser.parse_args(["bundle", "build", "--no-adapter"]))
    assert untrained.out != options.out, "what serves stays"
    assert untrained == replace(options, out=untrained.out, adapter=None, model_only=True)
