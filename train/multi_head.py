"""The model that is trained: a LoRA on a frozen base, rows of the special tokens, two heads."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 (as PyTorch's own code has it)

from train.base import BaseInfo
from train.config import LoraConfig, LossConfig
from train.examples import Batch

Tensor = torch.Tensor

PARTS = ("lm", "delta", "flag")
"""Of the loss, as `Sums` and `LossConfig` name them."""


class SpecialRows(nn.Module):
    """Rows of the special tokens as parameters of their own.

    Training them through the embedding matrix would carry the gradient of all its rows.
    """

    def __init__(self, base: BaseInfo) -> None:
        super().__init__()
        self.rows = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in base.rows.items()})
        ids = torch.tensor(list(base.special_ids.values()))
        self.register_buffer("ids", ids, persistent=False)
        self.ids: Tensor

    def embed(self, tokens: Tensor, table: Any) -> Tensor:
        """Embeddings of `tokens` [batch, length]: float [batch, length, n_embd].

        Special tokens may lie past the end of `table` (appended to a full vocabulary).
        """
        is_special = tokens[..., None] == self.ids
        plain: Tensor = table(torch.where(is_special.any(-1), 0, tokens))
        rows = self.rows["embedding"] * getattr(table, "embed_scale", 1.0)
        own = is_special.to(rows.dtype) @ rows
        found: Tensor = torch.where(is_special.any(-1, keepdim=True), own.to(plain.dtype), plain)
        return found

    def logits(self, hidden: Tensor, matrix: Any) -> Tensor:
        """Logits [m, n_vocab] of hidden states [m, n_embd], special tokens by their own rows."""
        logits: Tensor = matrix(hidden).float()
        rows = self.rows["output"] if "output" in self.rows else self.rows["embedding"]
        own = F.linear(hidden, rows.to(hidden.dtype)).float()
        if (missing := int(self.ids.max()) + 1 - logits.shape[-1]) > 0:
            logits = F.pad(logits, (0, missing), value=float("-inf"))
        return logits.index_copy(-1, self.ids, own)


class Heads(nn.Module):
    """Linear heads on the normalised state; deltas leave as tanh, flags as logits."""

    def __init__(self, n_embd: int, n_delta: int, n_flags: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_embd))
        self.register_buffer("scale", torch.ones(n_embd))
        self.register_buffer("pos_weight", torch.ones(n_flags))
        self.mean: Tensor
        self.scale: Tensor
        self.pos_weight: Tensor
        self.delta, self.flag = nn.Linear(n_embd, n_delta), nn.Linear(n_embd, n_flags)
        for head in (self.delta, self.flag):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)

    def start_from(self, states: Tensor, delta: Tensor, flag: Tensor, cap: float) -> None:
        """Normalise by `states` [n, n_embd]; begin at the labels' mean and the flags' odds.

        A raised flag weighs as much as it is rare, at most `cap`; its odds are so much too high.
        """
        with torch.no_grad():
            odds = torch.logit(flag.mean(0).clamp(1e-3, 1 - 1e-3))
            self.pos_weight.copy_((-odds).exp().clamp(1.0, cap))
            self.mean.copy_(states.mean(0))
            self.scale.copy_(states.std(0, correction=0).clamp_min(1e-3))
            self.delta.bias.copy_(torch.atanh(delta.mean(0).clamp(-0.9, 0.9)))
            self.flag.bias.copy_(odds + self.pos_weight.log())

    def forward(self, states: Tensor, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """`(delta [n, n_delta] in [-1, 1], flag logits [n, n_flags])` of states [n, n_embd]."""
        with torch.autocast(states.device.type, enabled=False):
            x = (states.float() - self.mean) / self.scale
            if noise:
                x = x + noise * torch.randn_like(x)
            return torch.tanh(self.delta(x)), self.flag(x)


@dataclass(frozen=True, slots=True)
class Sums:
    """Losses summed over a batch, and how many terms each has."""

    lm: Tensor
    delta: Tensor
    flag: Tensor
    num_answers: int
    num_states: int


@dataclass(frozen=True, slots=True)
class Output:
    """What the model makes of a batch: one row a `<STATE>`, one NLL (nats) a reply's token."""

    states: Tensor
    delta: Tensor
    flag_logits: Tensor
    nll: Tensor


class MultiHeadModel(nn.Module):
    """`lm` is a causal language model of transformers, with or without a PEFT adapter."""

    def __init__(self, lm: Any, base: BaseInfo, n_delta: int, n_flags: int) -> None:
        super().__init__()
        self.lm = lm
        self.rows = SpecialRows(base)
        self.heads = Heads(base.n_embd, n_delta, n_flags)

    def read(self, batch: Batch, noise: float = 0.0) -> Output:
        """One forward pass: states, predictions and the replies' NLL."""
        core = self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm
        embeddings = self.rows.embed(batch.tokens, core.get_input_embeddings())
        hidden = core.get_decoder()(
            inputs_embeds=embeddings,
            position_ids=batch.positions,
            packing=batch.packing,
            use_cache=False,
        ).last_hidden_state
        flat = hidden.flatten(0, 1)
        states = flat[batch.states].float()
        delta, flag_logits = self.heads(states, noise)
        logits = self.rows.logits(flat[batch.answers], core.get_output_embeddings())
        nll = F.cross_entropy(logits, batch.targets, reduction="none")
        return Output(states, delta, flag_logits, nll)

    def forward(self, batch: Batch, loss: LossConfig) -> Sums:
        """The losses of `batch`, summed: whoever accumulates divides by the counts of a step."""
        noise = loss.state_noise if self.training else 0.0
        return self.losses(self.read(batch, noise), batch, loss)

    def losses(self, out: Output, batch: Batch, loss: LossConfig) -> Sums:
        """What `out` costs by the labels of `batch`."""
        delta = F.smooth_l1_loss(out.delta, batch.delta, beta=loss.huber, reduction="none")
        flag = F.binary_cross_entropy_with_logits(
            out.flag_logits, batch.flag, pos_weight=self.heads.pos_weight, reduction="none"
        )
        return Sums(
            out.nll.sum(),
            delta.mean(1).sum(),
            flag.mean(1).sum(),
            len(batch.answers),
            len(batch.states),
        )


def add_adapter(lm: Any, config: LoraConfig, *, checkpointing: bool) -> Any:
    """`lm` with a fresh LoRA."""
    import peft  # noqa: PLC0415 (slow to import)

    if getattr(lm, "is_loaded_in_4bit", False):
        lm = peft.prepare_model_for_kbit_training(lm, use_gradient_checkpointing=checkpointing)
    elif checkpointing:
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(lm, settings)
    adapted.peft_config["default"].base_model_name_or_path = None  # a path of this machine
    return adapted
