from hypothesis import given
from hypothesis import strategies as st

from runtime.prefix_cache import Match, PrefixCache

TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def num_shared(a: list[int], b: list[int]) -> int:
    pairs = list(zip(a, b, strict=False))
    return next((at for at, (x, y) in enumerate(pairs) if x != y), len(pairs))


@given(st.lists(st.tuples(TOKENS, st.booleans()), max_size=12), st.lists(TOKENS, max_size=6))
def test_the_longest_beginning_is_found_whatever_came_and_went(
    kept: list[tuple[list[int], bool]], asked: list[list[int]]
) -> None:
    cache, residents = PrefixCache(), dict[int, list[int]]()
    for seq_id, (tokens, goes) in enumerate(kept):
        needless = cache.add(seq_id, tokens)
        expected = [i for i, other in residents.items() if tokens[: len(other)] == other]
        assert needless == expected
        residents = {i: other for i, other in residents.items() if i not in needless}
        residents[seq_id] = tokens
        if goes:
            cache.remove(seq_id)
            del residents[seq_id]
    assert cache.seq_ids == list(residents)
    for tokens in [*asked, *residents.values()]:
        longest = max((num_shared(tokens, other) for other in residents.values()), default=0)
        match = cache.find(tokens)
        if not longest:
            assert match is None
            continue
        assert match is not None
        assert match.length == longest == num_shared(tokens, residents[match.holder])
        can_be_whole = any(tokens[: len(o)] == o and len(o) == longest for o in residents.values())
        assert match.is_whole == can_be_whole


def test_an_empty_prompt_begins_like_nothing() -> None:
    cache = PrefixCache()
    cache.add(0, [1, 2])
    assert cache.find([]) is None


def test_a_resident_that_was_used_is_no_longer_the_first_to_go() -> None:
    cache = PrefixCache()
    for seq_id, tokens in enumerate(([1, 2], [3, 4], [5, 6])):
        cache.add(seq_id, tokens)
    cache.touch(0)
    assert cache.seq_ids == [1, 2, 0]


def test_a_conversations_earlier_turns_make_way_for_its_latest() -> None:
    cache = PrefixCache()
    cache.add(0, [1, 2])
    cache.add(1, [1, 2, 9])
    assert cache.add(2, [1, 2, 3]) == []
    assert cache.find([1, 2, 3, 4]) == Match(2, 3, is_whole=True)
    assert cache.find([1, 2, 9]) == Match(1, 3, is_whole=True)
