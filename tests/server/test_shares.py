from operator import itemgetter

from server.shares import to_forget

OF_ONE = [("one", number) for number in range(4)]


def forgotten(keys: list[tuple[str, int]], count: int) -> list[tuple[str, int]]:
    return to_forget(keys, count, owner_of=itemgetter(0))


def test_of_one_owner_the_first_go() -> None:
    assert forgotten(OF_ONE, 2) == OF_ONE[:2]


def test_who_has_most_gives_way_until_another_has_as_much() -> None:
    keys = [("two", 0), ("two", 1), *OF_ONE]
    assert forgotten(keys, 2) == OF_ONE[:2]
    assert forgotten(keys, 4) == [*OF_ONE[:2], ("two", 0), ("one", 2)]


def test_no_more_than_there_are_can_go() -> None:
    assert forgotten([], 1) == []
    assert sorted(forgotten(OF_ONE, 9)) == OF_ONE
