"""Validation while training: losses, and one composite figure that decides what is best."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from train.config import LossConfig
from train.dataset import CLEAR
from train.examples import Example, collate
from train.fit_heads import Array, sign_accuracy
from train.merit import delta_merit, flag_merit
from train.multi_head import PARTS, MultiHeadModel


def validate(
    model: MultiHeadModel,
    examples: Sequence[Example],
    loss: LossConfig,
    autocast: Callable[[], Any],
) -> dict[str, float]:
    """Losses as in training, `delta_mae`, `sign_accuracy` of clear deltas, and the merits."""
    model.eval()
    device = model.heads.pos_weight.device
    sums, counts = torch.zeros(len(PARTS), device=device), torch.zeros(len(PARTS))
    delta, scores, true_delta, true_flag = [], [], [], []
    with torch.no_grad():
        for example in examples:
            batch = collate([example]).to(device)
            with autocast():
                out = model.read(batch)
                found = model.losses(out, batch, loss)
            sums += torch.stack([getattr(found, part) for part in PARTS])
            counts += torch.tensor([found.num_answers, found.num_states, found.num_states])
            delta.append(out.delta)
            scores.append(out.flag_logits)
            true_delta.append(batch.delta)
            true_flag.append(batch.flag)
    lm, delta_loss, flag_loss = (sums.cpu() / counts).tolist()
    labels, predicted = _array(true_delta), _array(delta)
    return {
        "lm": lm,
        "delta": delta_loss,
        "flag": flag_loss,
        "delta_mae": float(np.abs(predicted - labels).mean()),
        "delta_merit": delta_merit(labels, predicted),
        "sign_accuracy": sign_accuracy(predicted, labels, np.abs(labels) >= CLEAR) or 0.0,
        "flag_merit": flag_merit(_array(true_flag), _array(scores)),
    }


def composite(figures: dict[str, float], start: dict[str, float]) -> float:
    """The mean of flag and delta merit and of the share of the start's NLL that is gone."""
    gained = 1 - figures["lm"] / start["lm"]
    return (figures["flag_merit"] + figures["delta_merit"] + gained) / 3


def _array(parts: list[torch.Tensor]) -> Array:
    return np.asarray(torch.cat(parts).float().cpu().numpy(), np.float64)
