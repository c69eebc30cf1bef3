"""Tiny bases in PyTorch, models to train on them, and batches of random tokens."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.prompt import Special
from tests.tiny_models import ARCHITECTURES, N_EMBD, TinyModel, make_tiny
from tests.train.turns import label
from train.base import BaseInfo, load_weights, read_base
from train.config import BaseConfig, LoraConfig
from train.examples import Batch, Example, collate
from train.multi_head import MultiHeadModel, Output, add_adapter

LORA = LoraConfig(r=4, alpha=12.0, dropout=0.0)
DELTA_NAMES, FLAG_NAMES = ["trust", "relationship"], ["give_item", "quest_stage_change"]
LENGTHS = (17, 30, 24)
OPENING = 4
ROUNDING = 1e-5
"""How far float32 sums in another order may lie apart."""


@dataclass(frozen=True)
class Ground:
    """A tiny base on disk and in PyTorch."""

    tiny: TinyModel
    info: BaseInfo
    lm: Any

    def model(
        self,
        config: LoraConfig | None = LORA,
        seed: int | None = 0,
        *,
        info: BaseInfo | None = None,
        checkpointing: bool = False,
    ) -> MultiHeadModel:
        """A model of its own; `config` None: no adapter, `seed` None: nothing is trained yet."""
        lm = copy.deepcopy(self.lm)
        if config:
            lm = add_adapter(lm, config, checkpointing=checkpointing)
        model = MultiHeadModel(lm, info or self.info, len(DELTA_NAMES), len(FLAG_NAMES)).eval()
        if seed is not None:
            draw = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for name, parameter in model.named_parameters():
                    if parameter.requires_grad:
                        scale = 0.3 if name.startswith("rows") else 0.1
                        parameter.copy_(scale * torch.randn(parameter.shape, generator=draw))
                model.heads.mean.copy_(torch.randn(N_EMBD, generator=draw))
                model.heads.scale.copy_(0.5 + torch.rand(N_EMBD, generator=draw))
                model.heads.pos_weight.copy_(torch.tensor([1.5, 3.0]))
        return model

    def past_the_end(self) -> BaseInfo:
        """The base as if its special tokens had been appended to a full vocabulary."""
        ids = {name: self.tiny.num_tokens + at for at, name in enumerate(self.info.special_ids)}
        return replace(self.info, special_ids=ids)


def make_grounds(folder: Path) -> dict[str, Ground]:
    """One of each architecture."""
    found: dict[str, Ground] = {}
    for architecture in ARCHITECTURES:
        tiny = make_tiny(architecture, folder)
        config = BaseConfig(gguf=str(tiny.path))
        lm = load_weights(config, tiny.path, torch.device("cpu"))
        found[architecture] = Ground(tiny, read_base(tiny.path), lm)
    return found


def examples_of(info: BaseInfo, lengths: Sequence[int] = LENGTHS) -> list[Example]:
    """Random tokens with all the special ones among them, two `<STATE>`s and some answers.

    All begin with the same few.
    """
    draw = np.random.default_rng(1)
    opening = draw.integers(0, 400, OPENING)
    found = []
    for number, length in enumerate(lengths):
        tokens = np.concatenate([opening, draw.integers(0, 400, length - OPENING)])
        places = draw.choice(np.arange(OPENING, length), 8, replace=False)
        ids = list(info.special_ids.values())
        tokens[places] = [*ids, info.special_ids[Special.STATE]]
        states = np.flatnonzero(tokens == info.special_ids[Special.STATE])
        answers = np.sort(draw.choice(np.arange(OPENING, length - 1), 6, replace=False))
        deltas = draw.uniform(-1, 1, (len(states), 2)).round(2)
        labels = [
            label(number + at, delta=dict(zip(DELTA_NAMES, map(float, delta), strict=True)))
            for at, delta in enumerate(deltas)
        ]
        found.append(
            Example(
                tuple(opening.tolist()), tokens.tolist(), states.tolist(), answers.tolist(), labels
            )
        )
    return found


def batch_of(info: BaseInfo, lengths: Sequence[int] = LENGTHS) -> Batch:
    return collate(examples_of(info, lengths))


def read(model: MultiHeadModel, batch: Batch, noise: float = 0.0) -> Output:
    with torch.no_grad():
        return model.read(batch, noise)


def assert_near(found: torch.Tensor, expected: torch.Tensor, scale: float = 1.0) -> None:
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING * scale)
