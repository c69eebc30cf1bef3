"""Training the encoder's adapter on a tiny encoder: it learns, and what is written is what learnt."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from export.bert_graph import write_graph
from export.default_encoder import make_tokenizer, merged
from export.errors import AdapterError
from export.packaged_encoder import PREFIX
from train.encoder_data import Question, TriggerLine
from train.encoder_train import (
    EncoderTraining,
    Step,
    TrainingTexts,
    make_bert,
    pool,
    train_adapter,
)
from tests.export.tiny_encoder import tiny_encoder

LINES = [
    TriggerLine(
        text=f"{word} {'kill' if is_bad else 'feed'} you {word}",
        lang="en",
        hostile=is_bad,
        kind="threat",
    )
    for word in ("soon", "now", "later", "today", "again", "maybe")
    for is_bad in (True, False)
]
QUESTIONS = [
    Question(f"{ask} {thing}", thing)
    for thing in ("lamp", "boat", "salt")
    for ask in ("where is the", "who made the", "what of the")
]
CONFIG = EncoderTraining(
    epochs=60,
    learning_rate=2e-2,
    head_learning_rate=0.1,
    rank=4,
    batch=6,
    questions=6,
    threads=1,
    bfloat16=False,
    dropout=0.0,
)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Step]]:
    path = tmp_path_factory.mktemp("adapter") / "adapter.safetensors"
    steps: list[Step] = []
    train_adapter(tiny_encoder(), TrainingTexts(LINES, QUESTIONS), CONFIG, path, steps.append)
    return path, steps


def test_both_losses_fall(adapter: tuple[Path, list[Step]]) -> None:
    _, steps = adapter
    assert [step.number for step in steps] == list(range(1, steps[-1].total + 1))
    for name in ("attack_loss", "retrieval_loss"):
        losses = [getattr(step, name) for step in steps]
        assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5]), name


def test_the_graph_of_the_merged_weights_gives_pytorchs_vectors(
    adapter: tuple[Path, list[Step]], tmp_path: Path
) -> None:
    path, _ = adapter
    weights = merged(tiny_encoder(), load_file(path), path)
    write_graph(weights, tmp_path / "graph.onnx", is_quantised=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"))
    model, tokenizer = make_bert(weights).eval(), make_tokenizer(weights)
    plain = make_bert(tiny_encoder()).eval()
    for line in LINES:
        ids = tokenizer.encode(PREFIX + line.text).ids
        (found,) = session.run(None, {"input_ids": np.array([ids])})
        with torch.inference_mode():
            expected = torch.nn.functional.normalize(pool(model, [ids])).numpy()
            before = torch.nn.functional.normalize(pool(plain, [ids])).numpy()
        assert float((found * expected).sum()) > 0.9999, "the word table is int8"
        assert float((found * before).sum()) < 0.999, "the adapter changes something"


def test_training_goes_on_from_an_adapter(adapter: tuple[Path, list[Step]], tmp_path: Path) -> None:
    path, first = adapter
    steps: list[Step] = []
    config = EncoderTraining(**{**vars_of(CONFIG), "epochs": 1, "begin_with": path})
    texts = TrainingTexts(LINES, QUESTIONS)
    train_adapter(tiny_encoder(), texts, config, tmp_path / "next.safetensors", steps.append)
    assert steps[0].retrieval_loss < first[0].retrieval_loss


def vars_of(config: EncoderTraining) -> dict[str, object]:
    return {name: getattr(config, name) for name in EncoderTraining.__dataclass_fields__}


def test_an_adapter_of_another_encoder_is_refused(adapter: tuple[Path, list[Step]]) -> None:
    path, _ = adapter
    factors = load_file(path)
    name = next(key for key in factors if key.endswith(".A"))
    with pytest.raises(AdapterError, match="LoRA factors"):
        merged(tiny_encoder(), {**factors, name: factors[name][:, :3]}, path)
