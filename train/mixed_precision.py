"""Where a forward pass multiplies in bf16, and how to spare it casting the same things again."""

from typing import Any

import torch
from torch import nn

from train.config import Precision

_BF16_CPUS = ("amx_bf16", "avx512_bf16", "bf16")


def multiplies_in_bf16(precision: Precision, device: torch.device) -> bool:
    """`auto` does on a GPU, and on a CPU with such instructions: without them it is slower."""
    if precision != "auto":
        return precision == "bf16"
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {"bf16": True}
    return any(able.get(name) for name in _BF16_CPUS)


def hold_frozen_in_bf16(lm: Any) -> None:
    """Keep what autocast would cast at every use as it would cast it: results do not change.

    That is the frozen matrices of `lm`, save the one that is shared with the embeddings, and what
    its projections read, which attention and feed-forward would cast once for each of theirs. A
    base in 4 bit has its own way of multiplying, and is left alone.
    """
    if getattr(lm, "is_loaded_in_4bit", False):
        return
    shared = lm.get_input_embeddings().weight
    for name, module in lm.named_modules():
        if isinstance(module, nn.Linear):
            if not (module.weight.requires_grad or module.weight is shared):
                module.to(torch.bfloat16)
        elif hasattr(module, "cast_input_dtype_enabled"):
            module.cast_input_dtype_enabled = False  # PEFT's cast to its factors' fp32
        if name.endswith((".self_attn", ".mlp")):
            module.register_forward_pre_hook(_cast_input, with_kwargs=True)


def _cast_input(_: nn.Module, args: Any, kwargs: Any) -> Any:
    if args:
        return (args[0].to(torch.bfloat16), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": kwargs["hidden_states"].to(torch.bfloat16)}
