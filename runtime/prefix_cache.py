"""The prefixes that the KV cache still holds: a token trie over residents, least recent out.

Pure policy. A resident is a sequence that nobody runs any more and whose cells are kept, so that a
prompt which begins like it need not be evaluated from its start.
"""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Match:
    """The longest kept beginning of a prompt: `length` tokens of resident `holder`."""

    holder: int
    length: int
    is_whole: bool
    """Whether those are all the tokens that the resident has."""


@dataclass(slots=True, eq=False)
class _Node:
    """A run of tokens that all its holders have, and what follows it."""

    tokens: list[int]
    holders: set[int] = field(default_factory=set)
    children: dict[int, "_Node"] = field(default_factory=dict)


class PrefixCache:
    """Residents by sequence id, the least recently used first."""

    def __init__(self) -> None:
        self._root = _Node([])
        self._residents: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return len(self._residents)

    def __contains__(self, seq_id: int) -> bool:
        return seq_id in self._residents

    @property
    def seq_ids(self) -> list[int]:
        """Ids of the residents, the least recently used first."""
        return list(self._residents)

    def find(
        self, tokens: list[int], holds: Callable[[int, int], bool] = lambda *_: True
    ) -> Match | None:
        """The longest beginning of `tokens` that a resident has; None if none has the first.

        Only of residents of which the cache `holds` so much.
        """
        for holders, length in reversed(self._beginnings(tokens)):
            if usable := [holder for holder in holders if holds(holder, length)]:
                # of those that have it, one that has no more: it can be gone on with as it is
                best = min(usable, key=lambda holder: len(self._residents[holder]))
                return Match(best, length, self.is_whole(best, length))
        return None

    def _beginnings(self, tokens: list[int]) -> list[tuple[set[int], int]]:
        """Who has how many of the first of `tokens`, from the few to the many."""
        found: list[tuple[set[int], int]] = []
        node, length = self._root, 0
        while length < len(tokens) and (child := node.children.get(tokens[length])):
            shared = num_shared(child.tokens, tokens, length)
            node, length = child, length + shared
            found.append((node.holders, length))
            if shared < len(child.tokens):
                break
        return found

    def add(self, seq_id: int, tokens: list[int]) -> list[int]:
        """Keep `tokens` as resident `seq_id`; residents that it makes needless, taken out.

        Those are the ones whose tokens are a beginning of these: a conversation's earlier turns.
        """
        assert tokens, "a resident has tokens"
        needless = [
            other
            for other, kept in self._residents.items()
            if len(kept) <= len(tokens)
            and kept[-1] == tokens[len(kept) - 1]  # most differ here, and need no copy
            and kept == tokens[: len(kept)]
        ]
        for other in needless:
            self.remove(other)
        self._residents[seq_id] = tokens
        node, length = self._root, 0
        while length < len(tokens):
            node, taken = self._descend(node, tokens, length)
            node.holders.add(seq_id)
            length += taken
        return needless

    def remove(self, seq_id: int) -> list[int]:
        """Forget a resident; its tokens."""
        tokens = self._residents.pop(seq_id)
        node, length = self._root, 0
        while length < len(tokens):
            child = node.children[tokens[length]]
            child.holders.discard(seq_id)
            if not child.holders:
                del node.children[tokens[length]]
                break
            node, length = child, length + len(child.tokens)
        return tokens

    def is_whole(self, seq_id: int, length: int) -> bool:
        """Whether a resident has `length` tokens and no more."""
        return len(self._residents[seq_id]) == length

    def touch(self, seq_id: int) -> None:
        """Count a resident as used just now."""
        self._residents[seq_id] = self._residents.pop(seq_id)

    def _descend(self, node: _Node, tokens: list[int], start: int) -> tuple[_Node, int]:
        """The child of `node` that holds the next of `tokens` and no others; how many it holds."""
        child = node.children.get(tokens[start])
        if child is None:
            child = node.children[tokens[start]] = _Node(tokens[start:])
        elif (shared := num_shared(child.tokens, tokens, start)) < len(child.tokens):
            rest = _Node(child.tokens[shared:], set(child.holders), child.children)
            child.tokens, child.children = child.tokens[:shared], {rest.tokens[0]: rest}
        return child, len(child.tokens)


def num_shared(run: list[int], tokens: list[int], start: int) -> int:
    """How many of the first tokens of `run` stand in `tokens` from `start` on."""
    alike, end = 0, min(len(run), len(tokens) - start)
    if run[:end] == tokens[start : start + end]:
        return end
    while end - alike > 1:  # run[:alike] stands there, run[:end] does not
        middle = (alike + end) // 2
        if run[alike:middle] == tokens[start + alike : start + middle]:
            alike = middle
        else:
            end = middle
    return alike
