"""States in host memory, and an engine that swaps: what is said is what would have been said."""

from collections.abc import Callable

import pytest

from runtime.engine import Offload
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.sequence import Request
from runtime.swap_space import SwapSpace
from tests.runtime.driving import EXACT, Bench, by_hand, greedy


def test_the_least_recently_kept_state_makes_way() -> None:
    swap = SwapSpace(100)
    for token in (1, 2, 3):
        swap.put([token] * 4, bytes(40))
    assert swap.find([1] * 9) is None
    found = swap.find([2] * 9)
    assert found is not None
    assert found.length == 4
    assert swap.take(found) == bytes(40)
    assert (len(swap), swap.num_bytes, swap.num_taken) == (1, 40, 1)
    assert swap.find([2] * 9) is None


def test_a_longer_state_of_the_same_conversation_replaces_the_shorter() -> None:
    swap = SwapSpace(100)
    swap.put([1] * 4, bytes(40))
    assert swap.wants([1] * 5)
    swap.put([1] * 6, bytes(60))
    assert (len(swap), swap.num_bytes) == (1, 60)
    assert not swap.wants([1] * 5)


@pytest.mark.parametrize("size", [0, 101])
def test_an_empty_state_and_one_beyond_the_bound_are_not_kept(size: int) -> None:
    swap = SwapSpace(100)
    swap.put([1] * 4, bytes(size))
    assert len(swap) == 0


def test_without_room_nothing_is_wanted() -> None:
    assert not SwapSpace().wants([1] * 4)


def conversation(bench: Bench, between: Callable[[], object]) -> tuple[list[int], int]:
    """What is said in two turns with others between them, and what the second one had cached."""
    opening = [*range(5, 205)]  # far longer than a tiny model's sliding window
    first = bench.finish_one(Request(opening, greedy(8))).done
    between()
    prompt = [*opening, *first.tokens, *range(80, 100)]
    second = bench.finish_one(Request(prompt, greedy(8))).done
    return [*first.tokens, *second.tokens], second.usage.cached_tokens


def test_a_conversation_that_was_swapped_out_says_the_same(tiny: LlamaModel) -> None:
    with by_hand(tiny, EXACT, max_residents=1, offload=Offload(swap=SwapSpace(10**8))) as bench:
        alone, _ = conversation(bench, lambda: None)

    with by_hand(tiny, EXACT, max_residents=1, offload=Offload(swap=SwapSpace(10**8))) as bench:
        others = [Request([*range(n, n + 60)], greedy(8)) for n in (20, 90)]
        swapped, num_cached = conversation(bench, lambda: bench.finish(*others))
        stats = bench.engine.stats
        assert swapped == alone
        assert num_cached >= 200
        assert stats.num_swapped_in == 1
        assert stats.num_swapped_bytes > 1000


def test_a_state_that_llama_does_not_take_is_evaluated_again(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with by_hand(tiny, EXACT, max_residents=1) as bench:
        alone, _ = conversation(bench, lambda: None)
    monkeypatch.setattr(LlamaContext, "save", lambda *_: b"no state of any sequence" * 100)
    with by_hand(tiny, EXACT, max_residents=1, offload=Offload(swap=SwapSpace(10**8))) as bench:
        others = [Request([*range(n, n + 60)], greedy(8)) for n in (20, 90)]
        swapped, num_cached = conversation(bench, lambda: bench.finish(*others))
        assert bench.engine.stats.num_swapped_in == 1
    assert (swapped, num_cached) == (alone, 0)
