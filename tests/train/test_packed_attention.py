"""Attention of a packed row, beside plain attention of each transcript with its mask."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train import packed_attention as packed
from train.packed_attention import Packing, packed_attention

WIDTH = 8


def plain_attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None
) -> torch.Tensor:
    """[heads, length, width] of one transcript, keys and values once for each query head."""
    distance = torch.arange(query.shape[1])[:, None] - torch.arange(query.shape[1])
    is_seen = (distance >= 0) & (distance < (window or len(distance)))
    scores = (query @ key.transpose(1, 2) * 0.5).masked_fill(~is_seen, float("-inf"))
    return scores.softmax(-1) @ value


@given(
    opening=st.integers(1, 12),
    continuations=st.lists(st.integers(0, 20), min_size=1, max_size=4),
    window=st.none() | st.integers(1, 15),
    rows=st.integers(1, 9),
    kv_heads=st.sampled_from([1, 2, 4]),
)
def test_every_token_sees_what_it_would_see_alone(
    opening: int, continuations: list[int], window: int | None, rows: int, kv_heads: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    length = opening + sum(continuations)
    query = torch.randn(1, 4, length, WIDTH, generator=draw)
    key, value = torch.randn(2, 1, kv_heads, length, WIDTH, generator=draw)
    packing = Packing(opening, tuple(continuations))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "CPU_ROWS", rows)
        found, _ = packed_attention(
            torch.nn.Identity(),
            query,
            key,
            value,
            None,
            packing=packing,
            scaling=0.5,
            sliding_window=window,
        )
    assert found.shape == (1, length, 4, WIDTH)
    for start, size in zip(packing.starts, continuations, strict=True):
        own = [*range(opening), *range(start, start + size)]
        keys, values = (s[0, :, own].repeat_interleave(4 // kv_heads, 0) for s in (key, value))
        expected = plain_attention(query[0][:, own], keys, values, window)
        torch.testing.assert_close(found[0, own].transpose(0, 1), expected, rtol=1e-5, atol=1e-5)


def test_positions_go_on_from_the_opening_in_every_continuation() -> None:
    packing = Packing(2, (3, 0, 1))
    assert packing.starts == [2, 5, 5]
    assert packing.positions().tolist() == [[0, 1, 2, 3, 4, 2]]
