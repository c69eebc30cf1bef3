"""Attention of a packed row: an opening, and continuations of it that don't see one another.

Conversations with the same NPC begin with the same tokens. Packed, the opening is evaluated once
for all of them, and nothing is padded; every token sees exactly what it would see alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812 (as PyTorch's own code has it)
from transformers import AttentionInterface

Tensor = torch.Tensor

NAME = "persona_packed"
"""Of this attention, for `attn_implementation`."""
CPU_ROWS = 128
"""Queries that a CPU attends with at a time: the keys that none of them sees are left out."""


@dataclass(frozen=True, slots=True)
class Packing:
    """Lengths in tokens of a row's opening and of its continuations, in the row's order."""

    opening: int
    continuations: tuple[int, ...]

    @property
    def starts(self) -> list[int]:
        """Where in the row each continuation begins."""
        return [*accumulate(self.continuations[:-1], initial=self.opening)]

    def positions(self) -> Tensor:
        """Of each token in its own transcript: long [1, length]."""
        ends = [self.opening + size for size in self.continuations]
        parts = [torch.arange(self.opening), *(torch.arange(self.opening, end) for end in ends)]
        return torch.cat(parts)[None]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention of one row, as transformers calls its attention functions.

    `query` [1, heads, length, width]; `key` and `value` [1, kv heads, length, width]. `settings`
    are `packing`, `scaling` and `sliding_window`. Returns [1, length, heads, width].
    """
    del module
    assert attention_mask is None, "the packing says what is seen"
    packing: Packing = settings["packing"]
    scaling, window = settings.get("scaling"), settings.get("sliding_window")
    # split, not sliced: the gradient of a slice is a row of zeros with the slice in it
    sizes = [packing.opening, *packing.continuations]
    (asked, *queries), (key, *keys), (value, *values) = (
        torch.split(part, sizes, 2) for part in (query, key, value)
    )
    parts = [
        (asked, key, value),
        *(
            (own, torch.cat([key, own_key], 2), torch.cat([value, own_value], 2))
            for own, own_key, own_value in zip(queries, keys, values, strict=True)
        ),
    ]
    found = [_causal(*part, scaling, window) for part in parts if part[0].shape[2]]
    return torch.cat(found, 2).transpose(1, 2).contiguous(), None


def _causal(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None
) -> Tensor:
    """Attention of the last `query.shape[2]` positions to all that are not after them."""
    num_queries, num_keys = query.shape[2], key.shape[2]
    offset, reach = num_keys - num_queries, window or num_keys
    if not offset and num_keys <= reach:
        return _attend(query, key, value, scaling, None)
    parts = []
    first = 0
    rows = CPU_ROWS if query.device.type == "cpu" else num_queries
    for own in torch.split(query, rows, 2):
        low, high = max(0, offset + first - reach + 1), offset + first + own.shape[2]
        mask = _mask(range(offset + first - low, high - low), min(reach, high - low), query.device)
        parts.append(_attend(own, key[:, :, low:high], value[:, :, low:high], scaling, mask))
        first += own.shape[2]
    return torch.cat(parts, 2)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, mask: Tensor | None
) -> Tensor:
    """Attention to what `mask` lets be seen, or without one to all that is not later."""
    groups = query.shape[1] // key.shape[1]
    key, value = _grouped(key, groups), _grouped(value, groups)
    return F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
    )


def _grouped(states: Tensor, groups: int) -> Tensor:
    """Keys or values once for each query head, [1, heads, length, width], without a copy if one."""
    if states.shape[1] == 1:
        return states.expand(-1, groups, -1, -1)
    return states.repeat_interleave(groups, 1)


@lru_cache(maxsize=64)  # the layers of a row ask for the same ones
def _mask(rows: range, reach: int, device: torch.device) -> Tensor:
    """Whether a query at one of `rows` sees a key: bool [queries, keys up to the last query]."""
    distance = torch.tensor(rows)[:, None] - torch.arange(rows.stop)
    return ((distance >= 0) & (distance < reach)).to(device)


AttentionInterface.register(NAME, packed_attention)
