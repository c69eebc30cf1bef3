"""An encoder that is taught to tell attacks, from PyTorch to the graph that serves."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from export.attack_adapter import AdapterRecord, AttackAdapter, adapter_bytes, read_adapter
from export.bert_graph import write_attack_graph, write_graph
from export.default_encoder import make_tokenizer
from export.packaged_encoder import PREFIX, Array, EncoderWeights
from heads.attacks import Blend, default_detector
from rag.embedder import ATTACK, ATTACKS, GRAPH, OUTPUT, WORDS
from tests.export.bundles import Recorder
from tests.export.tiny_encoder import tiny_encoder
from train.attack_encoder import TaughtEncoder, Teaching, teach
from train.encoder_data import TriggerLine
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
    sure = [3.0 if line.hostile else -3.0 for line in validation]
    blend, reached = fit_blend(default_detector(), sure, validation)
    assert blend.ngrams == default_detector().id
    assert reached == {"num_lines": 16, "precision": 1.0, "recall": 1.0}
    assert blend.score(3.0, 0.0) > blend.threshold > blend.score(-3.0, 0.0)


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


def test_an_adapter_of_another_shape_does_not_fit() -> None:
    tensors = TaughtEncoder(tiny_encoder(), Teaching(rank=2), 2).learnt()
    tensors["encoder.layer.0.output.dense.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"output.dense.bias is of shape \(3,\), not \(16,\)"):
        adapter_of(tensors).applied_to(tiny_encoder())
