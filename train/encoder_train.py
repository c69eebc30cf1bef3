"""Trains the default encoder's adapter: LoRA on the packaged E5, two tasks at once.

* Each document has a direction that its questions turn to, away from those of others (a softmax
  over proxies, Movshovitz-Attias et al. 2017): two questions about different facts of a document
  have nothing else in common, so pairs of them teach little.
* Attacks and harmless lines come to lie on two sides of a plane (binary cross-entropy). Plane and
  proxies are thrown away: `persona embedder calibrate` fits one on the vectors of the graph that
  serves.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import BertConfig, BertModel

from export.default_encoder import MAX_TOKENS, make_tokenizer
from export.packaged_encoder import PAD, PREFIX, EncoderWeights
from train.encoder_data import Question, TriggerLine

_PROXY_QUESTIONS = 8
TARGETS = r".*layer\.\d+\..*(query|key|value|dense)"


@dataclass(frozen=True, slots=True)
class EncoderTraining:
    """How to train. Defaults are what the shipped adapter was trained with."""

    epochs: int = 3
    learning_rate: float = 5e-4
    head_learning_rate: float = 2e-3
    rank: int = 16
    dropout: float = 0.05
    batch: int = 32
    questions: int = 24
    """Questions of a batch."""
    retrieval_weight: float = 0.5
    temperature: float = 0.05
    warmup: float = 0.06
    bfloat16: bool = True
    """Multiply in bfloat16: 1.6 times as fast on a CPU with AVX512-BF16; weights stay float32."""
    seed: int = 0
    threads: int = 2
    begin_with: Path | None = None
    """An adapter to go on from."""


@dataclass(frozen=True, slots=True)
class Step:
    """Losses at one step of `total`."""

    number: int
    total: int
    attack_loss: float
    retrieval_loss: float


@dataclass(frozen=True, slots=True)
class TrainingTexts:
    """What is learnt from."""

    lines: Sequence[TriggerLine]
    questions: Sequence[Question]


def train_adapter(
    weights: EncoderWeights,
    texts: TrainingTexts,
    config: EncoderTraining,
    out: Path,
    on_step: Callable[[Step], None],
) -> None:
    """Trains and writes the adapter to `out`, anew after every epoch, each time as a whole."""
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    trainer = _Trainer(weights, texts, config)
    for _ in range(config.epochs):
        trainer.epoch(on_step)
        trainer.save(out)


class _Trainer:
    def __init__(
        self, weights: EncoderWeights, texts: TrainingTexts, config: EncoderTraining
    ) -> None:
        self._config = config
        self._random = random.Random(config.seed)  # noqa: S311 (order of batches, no secret)
        tokenizer = make_tokenizer(weights)
        self._lines = [(_ids(tokenizer, line.text), float(line.hostile)) for line in texts.lines]
        names = sorted({question.about for question in texts.questions})
        number = {name: at for at, name in enumerate(names)}
        self._asked = [(_ids(tokenizer, q.text), number[q.about]) for q in texts.questions]
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=2 * config.rank,
            lora_dropout=config.dropout,
            target_modules=TARGETS,
        )
        self._model = get_peft_model(make_bert(weights), lora)
        if config.begin_with:
            self._load(config.begin_with)
        self._head = nn.Linear(weights.dim, 1)
        self._proxies = nn.Parameter(self._first_proxies(len(names), weights.dim))
        adapter = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            [
                {"params": adapter, "lr": config.learning_rate},
                {
                    "params": [*self._head.parameters(), self._proxies],
                    "lr": config.head_learning_rate,
                },
            ],
            weight_decay=0.01,
        )
        self._adapter = adapter
        self._total = config.epochs * len(self._batches())
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, self._factor)
        self._number = 0
        self._model.train()

    def _factor(self, step: int) -> float:
        warmup = max(1.0, self._config.warmup * self._total)
        return min((step + 1) / warmup, max(0.02, 1 - step / self._total))

    def _batches(self) -> list[list[tuple[list[int], float]]]:
        """Batches of lines of like length, in random order."""
        lines, size = list(self._lines), self._config.batch
        self._random.shuffle(lines)
        groups = [
            sorted(lines[at : at + 16 * size], key=lambda line: len(line[0]))
            for at in range(0, len(lines), 16 * size)
        ]
        batches = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
        self._random.shuffle(batches)
        return batches

    def epoch(self, on_step: Callable[[Step], None]) -> None:
        """One pass over the lines, each batch with one of questions."""
        for batch in self._batches():
            attack, retrieval = self._attack_loss(batch), self._retrieval_loss()
            loss = attack + self._config.retrieval_weight * retrieval
            self._optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self._adapter, 1.0)
            self._optimizer.step()
            self._schedule.step()
            self._number += 1
            on_step(Step(self._number, self._total, attack.item(), retrieval.item()))

    def _attack_loss(self, batch: Sequence[tuple[list[int], float]]) -> Tensor:
        pooled = functional.dropout(self._pooled([ids for ids, _ in batch]), 0.1)
        truth = torch.tensor([label for _, label in batch])
        logits = self._head(pooled).squeeze(-1)
        return functional.binary_cross_entropy_with_logits(logits, truth)

    def _retrieval_loss(self) -> Tensor:
        if not self._asked or not self._config.retrieval_weight:
            return torch.zeros(())
        chosen = self._random.sample(self._asked, min(self._config.questions, len(self._asked)))
        vectors = functional.normalize(self._pooled([ids for ids, _ in chosen]), dim=-1)
        proxies = functional.normalize(self._proxies, dim=-1)
        scores = vectors @ proxies.T / self._config.temperature
        return functional.cross_entropy(scores, torch.tensor([about for _, about in chosen]))

    def _first_proxies(self, count: int, dim: int) -> Tensor:
        """Where some questions of each document lie now, as seen from the middle of all."""
        proxies = torch.zeros(max(1, count), dim)
        for about in range(count):
            texts = [ids for ids, number in self._asked if number == about]
            with torch.inference_mode():
                vectors = functional.normalize(self._pooled(texts[:_PROXY_QUESTIONS]), dim=-1)
            proxies[about] = vectors.mean(0)
        return proxies - proxies.mean(0)

    def _pooled(self, texts: Sequence[list[int]]) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=self._config.bfloat16):
            pooled = pool(self._model, texts)
        return pooled.float()

    def _load(self, path: Path) -> None:
        state = {}
        for name, value in load_file(path).items():
            matrix, _, side = name.rpartition(".")
            if side in {"A", "B"}:
                key = f"base_model.model.{matrix}.lora_{side}.default.weight"
                state[key] = torch.from_numpy(value.astype(np.float32))
        self._model.load_state_dict(state, strict=False)

    def save(self, out: Path) -> None:
        """The factors by the names of the matrices that they change."""
        factors = {"scale": np.array([2.0], np.float32)}
        for key, value in self._model.state_dict().items():
            if ".lora_" in key:
                name, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
                factors[f"{name}.{rest[0]}"] = value.numpy().astype(np.float16)
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(f".{out.name}.new")
        save_file(factors, beside)
        beside.replace(out)


def make_bert(weights: EncoderWeights) -> BertModel:
    """The encoder as transformers has it, without a pooler."""
    tensors = weights.tensors
    config = BertConfig(
        vocab_size=tensors["embeddings.word_embeddings.weight"].shape[0],
        hidden_size=weights.dim,
        num_hidden_layers=weights.num_layers,
        num_attention_heads=weights.num_heads,
        intermediate_size=tensors["encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=weights.max_tokens,
        type_vocab_size=tensors["embeddings.token_type_embeddings.weight"].shape[0],
        layer_norm_eps=weights.eps,
        pad_token_id=PAD,
    )
    model = BertModel(config, add_pooling_layer=False)
    model.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()})
    return model


def pool(model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
    """The mean of the last hidden states over the tokens of each text, [len(texts), dim]."""
    longest = max(map(len, texts))
    ids = torch.full((len(texts), longest), PAD)
    mask = torch.zeros((len(texts), longest))
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text)
        mask[row, : len(text)] = 1
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    total: Tensor = (hidden * mask[..., None]).sum(1)
    return total / mask.sum(1, keepdim=True)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(PREFIX + text).ids[:MAX_TOKENS]
    return ids
