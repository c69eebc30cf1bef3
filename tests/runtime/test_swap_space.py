"""States in host memory, and an engine that swaps: what is said is what would have been said."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from runtime.kv_cache import Offload
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.sequence import Request
from runtime.swap_space import SwapSpace
from tests.runtime.driving import EXACT, Bench, by_hand, greedy
from tests.runtime.reference import plain_greedy


def test_the_least_recently_kept_state_makes_way() -> None:
    swap = SwapSpace(100)
    for token in (1, 2, 3):
        swap.put([token] * 4, bytes(40))
    assert swap.find([1] * 9) is None
    found = swap.find([2] * 9)
    assert found is not None
    assert found.length == 4
    assert swap.take(found) == bytes(40)
    assert (len(swap), swap.num_bytes) == (1, 40)
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


def no_memory(*_: object) -> bytes:
    """As if the machine had none left."""
    raise MemoryError


def swapping() -> Offload:
    """Room for all that these models say."""
    return Offload(swap=SwapSpace(10**8))


OTHERS = [Request([*range(n, n + 60)], greedy(8)) for n in (20, 90)]
"""Two who push a third out of a cache that keeps one."""


def conversation(bench: Bench, between: Callable[[], object]) -> tuple[list[int], int]:
    """What is said in two turns with others between them, and what the second one had cached."""
    opening = [*range(5, 205)]  # far longer than a tiny model's sliding window
    first = bench.finish_one(Request(opening, greedy(8))).done
    between()
    prompt = [*opening, *first.tokens, *range(80, 100)]
    second = bench.finish_one(Request(prompt, greedy(8))).done
    return [*first.tokens, *second.tokens], second.usage.cached_tokens


def test_a_conversation_that_was_swapped_out_says_the_same(tiny: LlamaModel) -> None:
    with by_hand(tiny, EXACT, max_residents=1, offload=swapping()) as bench:
        alone, _ = conversation(bench, lambda: None)

    with by_hand(tiny, EXACT, max_residents=1, offload=swapping()) as bench:
        swapped, num_cached = conversation(bench, lambda: bench.finish(*OTHERS))
        stats = bench.engine.stats
        assert swapped == alone
        assert num_cached >= 200
        assert stats.num_swapped_in == 1
        assert stats.num_swapped_bytes > 1000


def test_the_longest_beginning_counts_though_another_has_more_of_the_tokens() -> None:
    swap = SwapSpace(100)
    swap.put([1, 1, 1, 1, 2, 2], bytes(40))
    swap.put([1, 1, 1, 1], bytes(20))
    found = swap.find([1, 1, 1, 1, 2, 3])
    assert found is not None
    assert found.length == 4


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        ({"save": lambda *_: b"no state of any sequence" * 100}, "does not take a state back"),
        ({"save": no_memory}, "no memory for a conversation of"),
        ({"restore": no_memory}, "no memory to bring"),
    ],
)
def test_a_state_that_is_of_no_use_is_evaluated_again(
    tiny: LlamaModel,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    broken: dict[str, Callable[..., bytes]],
    told: str,
) -> None:
    with by_hand(tiny, EXACT, max_residents=1) as bench:
        alone, _ = conversation(bench, lambda: None)
    for method, instead in broken.items():
        monkeypatch.setattr(LlamaContext, method, instead)
    with by_hand(tiny, EXACT, max_residents=1, offload=swapping()) as bench:
        swapped, num_cached = conversation(bench, lambda: bench.finish(*OTHERS))
        assert bench.engine.stats.num_swapped_in == 0
    assert (swapped, num_cached) == (alone, 0)
    assert told in caplog.text


def test_many_conversations_go_on_in_a_cache_that_is_far_too_small(
    tiny: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a sliding window, too, whose cells others are given while the conversation is there."""
    for question in ("is_end", "is_control"):
        monkeypatch.setattr(LlamaModel, question, lambda *_: False)
    config = replace(EXACT, n_ctx=512, n_seq_max=8)
    with by_hand(tiny, config, max_residents=6, offload=swapping()) as bench:
        told = [[30 + number, *(40 + at * number % 9 for at in range(70))] for number in range(12)]
        for turn in range(3):
            for prompt in told:
                done = bench.finish_one(Request([*prompt], greedy(4))).done
                assert list(done.tokens) == plain_greedy(tiny, prompt, 4)
                if turn:
                    assert done.usage.cached_tokens >= len(prompt) - 6
                prompt += [*done.tokens, 50]
        assert bench.engine.stats.num_swapped_in >= 20
