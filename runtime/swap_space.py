"""Conversations that the KV cache has no room for: their states in host memory, least recent out.

Pure policy; a state is bytes that only llama.cpp reads. It says how a sequence goes on from its
end, not from any place before that: of a sliding window's cells it has the last ones alone.
"""

from runtime.prefix_cache import Match, PrefixCache


class SwapSpace:
    """At most `max_bytes` of states; with 0 none is kept."""

    def __init__(self, max_bytes: int = 0) -> None:
        self._max_bytes = max_bytes
        self._known = PrefixCache()
        self._states: dict[int, bytes] = {}
        self._next = 0
        self.num_bytes = 0
        self.num_restored = 0
        """States that the cache took back."""

    def __len__(self) -> int:
        return len(self._states)

    def wants(self, tokens: list[int]) -> bool:
        """Whether a state of these tokens is to be put: nothing that is kept begins with them."""
        if not self._max_bytes:
            return False
        known = self._known.find(tokens)
        return known is None or known.length < len(tokens)

    def find(self, tokens: list[int]) -> Match | None:
        """The longest beginning of `tokens` of which there is a state."""
        return self._known.find(tokens, self._known.is_whole)

    def take(self, match: Match) -> bytes:
        """The state that was found, which is kept no longer."""
        return self._drop(match.holder)

    def put(self, tokens: list[int], state: bytes) -> None:
        """Keep a state that is wanted, if it is within the bound."""
        if not 0 < len(state) <= self._max_bytes:
            return
        number, self._next = self._next, self._next + 1
        for needless in self._known.add(number, tokens):
            self._known_no_more(needless)
        self._states[number] = state
        self.num_bytes += len(state)
        while self.num_bytes > self._max_bytes:
            self._drop(self._known.seq_ids[0])

    def _drop(self, number: int) -> bytes:
        self._known.remove(number)
        return self._known_no_more(number)

    def _known_no_more(self, number: int) -> bytes:
        state = self._states.pop(number)
        self.num_bytes -= len(state)
        return state
