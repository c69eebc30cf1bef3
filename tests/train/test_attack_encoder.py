"""An encoder that is taught to tell attacks, from PyTorch to the graph that serves."""

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch

from export import default_encoder
from export.attack_adapter import (
    HEAD,
    HEAD_BIAS,
    AdapterRecord,
    AttackAdapter,
    adapter_bytes,
    read_adapter,
)
from export.bert_graph import write_attack_graph, write_graph
from export.default_encoder import EncoderBuild, build_encoder, make_tokenizer
from export.packaged_encoder import PREFIX, Array, EncoderWeights
from heads.attacks import Blend, default_detector
from rag.embedder import ATTACK, ATTACKS, GRAPH, OUTPUT, WORDS, OnnxEmbedder
from server.cli import main
from tests.export.bundles import Recorder
from tests.export.tiny_encoder import tiny_encoder
from train import triggers_cli
from train.attack_encoder import TaughtEncoder, Teaching, teach
from train.dataset import Tags, TurnLabel
from train.encoder_data import TriggerLine, ordinary_remarks
from train.fit_detector import fit_blend

BLEND = Blend(ngrams="0", encoder_weight=1, ngram_weight=0, bias=0, threshold=0.5)


def adapter_of(tensors: dict[str, Array]) -> AttackAdapter:
    return AttackAdapter(tensors, AdapterRecord(blend=BLEND))


def served(
    weights: EncoderWeights, adapter: AttackAdapter, texts: list[str], folder: Path
) -> list[float]:
    """The logits of the graphs that serve."""
    write_graph(weights, folder / GRAPH, is_quantised=False)
    taught = adapter.applied_to(weights)
    write_attack_graph(taught, *adapter.head, folder / ATTACKS, is_quantised=False)
    encoder, attacks = (
        onnxruntime.InferenceSession(str(folder / name)) for name in (GRAPH, ATTACKS)
    )
    tokenizer, logits = make_tokenizer(weights), []
    for text in texts:
        ids = np.array([tokenizer.encode(PREFIX + text).ids])
        _, words = encoder.run([OUTPUT, WORDS], {"input_ids": ids})
        logits.append(attacks.run([ATTACK], {WORDS: words})[0].item())
    return logits


def test_the_graph_gives_the_logits_that_were_trained(tmp_path: Path) -> None:
    weights, texts = tiny_encoder(), ["the lamp", "a boat", "가나다 라"]
    torch.manual_seed(1)
    model = TaughtEncoder(weights, Teaching(rank=3), 2).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    found = served(weights, adapter_of(model.learnt()), texts, tmp_path)
    tokenizer = make_tokenizer(weights)
    ids = [tokenizer.encode(PREFIX + text).ids for text in texts]
    length = max(map(len, ids))
    padded = torch.tensor([[*line, *[0] * (length - len(line))] for line in ids])
    is_token = torch.tensor([[at < len(line) for at in range(length)] for line in ids])
    expected, _ = model(padded, is_token)
    # the word table is int8 in the graph
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=0.01)


def lines(words: dict[str, bool], numbers: range) -> list[TriggerLine]:
    return [
        TriggerLine(text=f"{word} {'abcdefgh'[n % 8]}", lang="en", hostile=bad, kind=word)
        for n in numbers
        for word, bad in words.items()
    ]


def test_what_was_taught_tells_lines_apart_and_leaves_the_encoder_alone(tmp_path: Path) -> None:
    weights = tiny_encoder()
    before = {name: value.copy() for name, value in weights.tensors.items()}
    words = {"drown": True, "burn": True, "swim": False, "warm": False}
    teaching = Teaching(rank=4, epochs=20, batch=8, lr=5e-3, dropout=0)
    reporter = Recorder()
    tensors = teach(weights, lines(words, range(8)), teaching, reporter)
    logits = served(weights, adapter_of(tensors), [*words], tmp_path)
    assert [logit > 0 for logit in logits] == [*words.values()]
    assert all(np.array_equal(weights.tensors[name], value) for name, value in before.items())
    again = teach(weights, lines(words, range(8)), teaching, Recorder())
    assert all(np.array_equal(tensors[name], value) for name, value in again.items())


def test_the_word_of_both_is_weighed_on_validation() -> None:
    words = {"drown": True, "swim": False}
    validation = lines(words, range(8))
    sure = {line.text: 3.0 if line.hostile else -3.0 for line in validation}
    detector = default_detector()
    blend, reached = fit_blend(detector, sure.__getitem__, validation, [])
    assert blend.ngrams == detector.id
    nothing = {"num_lines": 0, "fired": 0}
    assert reached == {"num_lines": 16, "precision": 1.0, "recall": 1.0, "ordinary": nothing}
    assert blend.score(3.0, 0.0) > blend.threshold > blend.score(-3.0, 0.0)


def test_ordinary_remarks_keep_the_threshold_up() -> None:
    words = {"drown": True, "swim": False}
    validation = lines(words, range(8))
    ordinary = [line for line in lines({"warm": False}, range(100)) if not line.hostile]
    heard = {line.text: 3.0 if line.hostile else -3.0 for line in validation}
    heard |= {line.text: 8.0 for line in ordinary}
    blend, reached = fit_blend(default_detector(), heard.__getitem__, validation, ordinary)
    assert reached["recall"] == 0.0
    assert blend.threshold > blend.score(3.0, 3.0)
    assert msgspec.json.decode(msgspec.json.encode(blend), type=Blend) == blend


def test_ordinary_remarks_are_those_that_never_cost_much_trust() -> None:
    def said(text: str, trust: float) -> TurnLabel:
        tags = Tags(quest_stage="any", location="any", trust=0, relationship=0, npc_mood="calm")
        return TurnLabel(
            conversation="c",
            turn=0,
            npc_id="mina",
            tags=tags,
            player_utterance=text,
            response="Hm.",
            delta={"trust": trust},
            flag={},
            lang="en",
            split_group="s",
        )

    turns = [said("a", 0.1), said("b", -0.1), said("c", -0.2), said("a", 0.0), said("c", 0.5)]
    assert [(line.text, line.hostile) for line in ordinary_remarks(turns)] == [
        ("a", False),
        ("b", False),
    ]


def test_what_was_taught_is_where_the_next_lesson_begins() -> None:
    weights, words = tiny_encoder(), {"drown": True, "swim": False}
    teaching = Teaching(rank=2, epochs=1, batch=8, lr=1e-9, dropout=0, weight_decay=0)
    first = teach(weights, lines(words, range(4)), replace(teaching, lr=1e-2), Recorder())
    second = teach(weights, lines(words, range(4)), teaching, Recorder(), first)
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=1e-5)
    with pytest.raises(ValueError, match=r"lora_a is of shape \(2, 16\), not \(3, 16\)"):
        teach(weights, lines(words, range(4)), replace(teaching, rank=3), Recorder(), first)


def test_an_adapter_is_read_as_it_was_written(tmp_path: Path) -> None:
    model = TaughtEncoder(tiny_encoder(), Teaching(rank=2), 2)
    adapter = adapter_of(model.learnt())
    path = tmp_path / "attacks.safetensors"
    path.write_bytes(adapter_bytes(adapter))
    found = read_adapter(path)
    assert found.record == adapter.record
    assert found.tensors.keys() == adapter.tensors.keys()
    for name, value in adapter.tensors.items():
        np.testing.assert_allclose(found.tensors[name], value, atol=2e-3)


DENSE = "encoder.layer.0.output.dense"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (f"{DENSE}.bias", np.zeros(3), r"dense.bias is of shape \(3,\), not \(16,\)"),
        (f"{DENSE}.lora_a", np.zeros((3, 32)), r"\(16, 2\) and lora_a \(3, 32\) make no matrix"),
        (f"{DENSE}.lora_a", None, r"\(16, 2\) and lora_a None make no matrix"),
        (f"{DENSE}.lora_b", None, "lora_a comes without lora_b"),
        ("encoder.layer.9.output.dense.bias", np.zeros(3), "the encoder has no encoder.layer.9"),
        (HEAD, np.zeros(17), r"head.weight is of shape \(17,\), not \(16,\)"),
        (HEAD_BIAS, None, r"head.bias is of shape None, not \(1,\)"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    name: str, value: npt.NDArray[np.float64] | None, said: str
) -> None:
    tensors = TaughtEncoder(tiny_encoder(), Teaching(rank=2), 2).learnt()
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value.astype(np.float32)
    with pytest.raises(ValueError, match=said):
        adapter_of(tensors).applied_to(tiny_encoder())


@pytest.fixture
def small_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lines to learn from, and the package's weights are a tiny encoder's."""
    for module in (default_encoder, triggers_cli):
        monkeypatch.setattr(module, "read_packaged", tiny_encoder)
    folder = tmp_path / "world" / "triggers"
    folder.mkdir(parents=True)
    words = {"drown": True, "burn": True, "swim": False, "warm": False}
    for name in ("train", "pairs", "validation"):
        content = b"\n".join(map(msgspec.json.encode, lines(words, range(4))))
        (folder / f"{name}.jsonl").write_bytes(content)
    return tmp_path / "world"


def test_the_commands_teach_and_weigh_what_an_encoder_is_built_with(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lesson.safetensors"
    taught = ["triggers", "teach", str(small_world), "--out", str(out), "--epochs", "1"]
    assert main([*taught, "--rank", "2"]) == 0
    lesson = read_adapter(out)
    assert lesson.record.training["num_lines"] == 32
    assert lesson.record.evaluation["validation"]["num_lines"] == 16
    assert f"wrote {out}" in capsys.readouterr().out
    assert main(["triggers", "weigh", str(small_world), "--out", str(out)]) == 0
    again = read_adapter(out)
    assert again.record == lesson.record
    build_encoder(EncoderBuild(tmp_path / "encoder", None, out), Recorder())
    assert OnnxEmbedder(tmp_path / "encoder").blend == lesson.record.blend


def test_what_cannot_be_taught_is_told_before_it_is_tried(
    small_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taught = ["triggers", "teach", str(small_world), "--out", str(tmp_path / "lesson")]
    assert main([*taught, "--epochs", "0"]) == 1
    assert "--epochs is 0; it must be more than 0" in capsys.readouterr().err
    (small_world / "triggers" / "validation.jsonl").write_bytes(b"")
    assert main(taught) == 1
    assert "0 lines; some must be attacks and some harmless" in capsys.readouterr().err
    assert not (tmp_path / "lesson").exists()
