"""Teaches the default sentence encoder to tell attacks: a LoRA on each of its layers, and a head.

The encoder itself stays as it is, for what is kept of its vectors must not move; the word table is
shared, and is not taught.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (as PyTorch's own code has it)

from export.attack_adapter import DOWN, HEAD, HEAD_BIAS, UP
from export.default_encoder import make_tokenizer
from export.packaged_encoder import PREFIX, Array, EncoderWeights
from export.reporter import Reporter
from rag.embedder import ATTACK_TOKENS
from train.encoder_data import TriggerLine
from train.mixed_precision import multiplies_in_bf16

Tensor = torch.Tensor

_WORDS = "embeddings.word_embeddings.weight"
_SHARPNESS = 8.0
"""How much a vector of unit length is lengthened before the head, whose weights grow slowly."""
_GRADIENT_NORM = 1.0
_TOLD = 20
"""Times that the loss is told."""
_NEIGHBOURS = 50
"""Batches that are sorted by length together: what a batch is padded by, another is not."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """How the encoder is taught; epochs over all lines, a linear decay after the warm-up."""

    rank: int = 32
    epochs: int = 4
    batch: int = 32
    lr: float = 8e-4
    warm_up: float = 0.06
    weight_decay: float = 0.05
    dropout: float = 0.1
    label_smoothing: float = 0.05
    kind_loss: float = 0.3
    """Weight of the loss of telling a line's kind, which is forgotten afterwards."""
    seed: int = 0


class TaughtEncoder(nn.Module):
    """The encoder with its LoRA: token ids [batch, length] to a logit, and logits of kinds."""

    def __init__(self, weights: EncoderWeights, teaching: Teaching, num_kinds: int) -> None:
        super().__init__()
        tensors = {
            name: torch.from_numpy(np.array(value)) for name, value in weights.tensors.items()
        }
        self._words = tensors[_WORDS]
        self._places = (
            tensors["embeddings.position_embeddings.weight"]
            + tensors["embeddings.token_type_embeddings.weight"][0]
        )
        self._norm = _Norm(tensors, "embeddings.LayerNorm", weights.eps).requires_grad_(False)
        self.layers = nn.ModuleList(
            _Layer(tensors, f"encoder.layer.{number}", weights, teaching)
            for number in range(weights.num_layers)
        )
        self.dropout = nn.Dropout(teaching.dropout)
        self.head = nn.Linear(weights.dim, 1)
        self.kinds = nn.Linear(weights.dim, num_kinds)

    def forward(self, ids: Tensor, is_token: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch] of an attack, and [batch, kinds]; `is_token` is False on padding."""
        hidden = self._norm(self._words[ids] + self._places[: ids.shape[1]])
        mask = torch.where(is_token[:, None, None, :], 0.0, -1e9)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._is_in_bf16):
            for layer in self.layers:
                hidden = layer(hidden, mask)
        shown = is_token[..., None]
        mean = (hidden.float() * shown).sum(1) / shown.sum(1)
        state = self.dropout(F.normalize(mean, dim=1) * _SHARPNESS)
        return self.head(state)[:, 0], self.kinds(state)

    def multiply_in_bf16(self) -> None:
        """Hold the frozen matrices as a CPU with bf16 instructions multiplies them."""
        self._is_in_bf16 = True
        for module in self.modules():
            if isinstance(module, _Linear):
                module.weight = module.weight.bfloat16()

    _is_in_bf16 = False

    def resume(self, tensors: Mapping[str, Array]) -> None:
        """Go on from what was learnt before. Raises ValueError where it is of another shape."""
        before = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
        own = dict(self._learnt())
        with torch.no_grad():
            for name, parameter in own.items():
                value = before.get(name)
                if value is None or value.shape != parameter.shape:
                    found = None if value is None else tuple(value.shape)
                    raise ValueError(f"{name} is of shape {found}, not {tuple(parameter.shape)}")
                parameter.copy_(value)
            self.head.weight /= _SHARPNESS

    def learnt(self) -> dict[str, Array]:
        """What was learnt, by the names of `AttackAdapter`."""
        found = {name: value.detach().numpy().copy() for name, value in self._learnt()}
        found[HEAD] *= _SHARPNESS
        return found

    def _learnt(self) -> Iterator[tuple[str, Tensor]]:
        yield HEAD, self.head.weight[0]
        yield HEAD_BIAS, self.head.bias
        for module in self.layers.modules():
            if isinstance(module, _Linear):
                yield f"{module.name}.{DOWN}", module.down
                yield f"{module.name}.{UP}", module.up
                yield f"{module.name}.bias", module.bias
            elif isinstance(module, _Norm):
                yield f"{module.name}.weight", module.weight
                yield f"{module.name}.bias", module.bias


def teach(
    weights: EncoderWeights,
    lines: Sequence[TriggerLine],
    teaching: Teaching,
    reporter: Reporter,
    before: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """What the encoder learns from `lines`, by the names of `AttackAdapter`.

    It goes on from what it learnt `before`. Raises ValueError if that is of another shape.
    """
    torch.manual_seed(teaching.seed)
    kinds = sorted({line.kind for line in lines})
    model = TaughtEncoder(weights, teaching, len(kinds))
    if before is not None:
        model.resume(before)
    if multiplies_in_bf16("auto", torch.device("cpu")):
        model.multiply_in_bf16()
    tokenizer = make_tokenizer(weights)
    tokenizer.enable_truncation(ATTACK_TOKENS)
    ids = [tokenizer.encode(PREFIX + line.text).ids for line in lines]
    hostile = torch.tensor([float(line.hostile) for line in lines])
    hostile = hostile * (1 - teaching.label_smoothing) + teaching.label_smoothing / 2
    kind = torch.tensor([kinds.index(line.kind) for line in lines])
    num_steps = teaching.epochs * math.ceil(len(lines) / teaching.batch)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser, schedule = _optimiser(parameters, teaching, num_steps)
    done, mean_loss = reporter.stage("teaching", num_steps), 0.0
    for step, rows in enumerate(_batches(ids, teaching), 1):
        logits, kind_logits = model(*_padded([ids[row] for row in rows]))
        loss = F.binary_cross_entropy_with_logits(logits, hostile[rows])
        both = loss + teaching.kind_loss * F.cross_entropy(kind_logits, kind[rows])
        optimiser.zero_grad()
        both.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _GRADIENT_NORM)
        optimiser.step()
        schedule.step()
        share = max(0.02, 1 / step)
        mean_loss += share * (loss.item() - mean_loss)
        done(1)
        if step % max(1, num_steps // _TOLD) == 0:
            reporter.say(f"step {step} of {num_steps}: loss {mean_loss:.3f}")
    return model.learnt()


class _Linear(nn.Module):
    def __init__(self, tensors: dict[str, Tensor], name: str, rank: int) -> None:
        super().__init__()
        self.name = name
        self.register_buffer("weight", tensors[f"{name}.weight"], persistent=False)
        self.weight: Tensor
        n_out, n_in = self.weight.shape
        self.bias = nn.Parameter(tensors[f"{name}.bias"].clone())
        self.down = nn.Parameter(torch.randn(rank, n_in) / math.sqrt(n_in))
        self.up = nn.Parameter(torch.zeros(n_out, rank))

    def forward(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight, self.bias) + F.linear(
            F.linear(value, self.down), self.up
        )


class _Norm(nn.Module):
    def __init__(self, tensors: dict[str, Tensor], name: str, eps: float) -> None:
        super().__init__()
        self.name, self._eps = name, eps
        self.weight = nn.Parameter(tensors[f"{name}.weight"].clone())
        self.bias = nn.Parameter(tensors[f"{name}.bias"].clone())

    def forward(self, value: Tensor) -> Tensor:
        return F.layer_norm(value, self.weight.shape, self.weight, self.bias, self._eps)


class _Layer(nn.Module):
    def __init__(
        self, tensors: dict[str, Tensor], name: str, weights: EncoderWeights, teaching: Teaching
    ) -> None:
        super().__init__()

        def linear(part: str) -> _Linear:
            return _Linear(tensors, f"{name}.{part}", teaching.rank)

        self._heads = weights.num_heads
        self.query = linear("attention.self.query")
        self.key = linear("attention.self.key")
        self.value = linear("attention.self.value")
        self.said = linear("attention.output.dense")
        self.said_norm = _Norm(tensors, f"{name}.attention.output.LayerNorm", weights.eps)
        self.wide, self.narrow = linear("intermediate.dense"), linear("output.dense")
        self.norm = _Norm(tensors, f"{name}.output.LayerNorm", weights.eps)
        self.dropout = nn.Dropout(teaching.dropout)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        batch, length, dim = hidden.shape
        query, key, value = (
            part(hidden).view(batch, length, self._heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        # PyTorch's fused attention takes three times as long on lines of 30 tokens, on a CPU
        scores = query @ key.transpose(-1, -2) * (dim // self._heads) ** -0.5 + mask
        mixed = torch.softmax(scores, -1).to(value.dtype) @ value
        said = self.said(mixed.transpose(1, 2).reshape(batch, length, dim))
        hidden = self.said_norm(hidden + said)
        return self.norm(hidden + self.dropout(self.narrow(F.gelu(self.wide(hidden)))))  # type: ignore[no-any-return]


def _optimiser(
    parameters: Sequence[nn.Parameter], teaching: Teaching, num_steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": teaching.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=teaching.lr, betas=(0.9, 0.98))
    warm = max(1, round(teaching.warm_up * num_steps))

    def factor(step: int) -> float:
        return min((step + 1) / warm, (num_steps - step) / max(1, num_steps - warm))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _batches(ids: Sequence[list[int]], teaching: Teaching) -> Iterator[list[int]]:
    """Rows of the batches of all epochs."""
    rng = np.random.default_rng(teaching.seed)
    for _ in range(teaching.epochs):
        order, batches = rng.permutation(len(ids)).tolist(), []
        for start in range(0, len(order), teaching.batch * _NEIGHBOURS):
            near = sorted(
                order[start : start + teaching.batch * _NEIGHBOURS], key=lambda row: len(ids[row])
            )
            batches += [
                near[at : at + teaching.batch] for at in range(0, len(near), teaching.batch)
            ]
        for number in rng.permutation(len(batches)):
            yield batches[number]


def _padded(ids: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    length = max(map(len, ids))
    padded = torch.zeros(len(ids), length, dtype=torch.long)
    is_token = torch.zeros(len(ids), length, dtype=torch.bool)
    for row, line in enumerate(ids):
        padded[row, : len(line)] = torch.tensor(line)
        is_token[row, : len(line)] = True
    return padded, is_token
