"""Who gives way in a full table that several API keys share."""

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

K = TypeVar("K")


def to_forget(keys: Iterable[K], count: int, owner_of: Callable[[K], str]) -> list[K]:
    """`count` of the keys, or all of them: each the first of the owner who has most left."""
    by_owner: dict[str, deque[K]] = {}
    for key in keys:
        by_owner.setdefault(owner_of(key), deque()).append(key)
    forgotten: list[K] = []
    while by_owner and len(forgotten) < count:
        owner = max(by_owner, key=lambda owner: len(by_owner[owner]))
        forgotten.append(by_owner[owner].popleft())
        if not by_owner[owner]:
            del by_owner[owner]
    return forgotten
