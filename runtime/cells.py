"""Which sequence uses which KV cells: those of a shared prefix are counted once.

Pure accounting of what llama.cpp does in a unified cache: `seq_cp` shares cells, and a cell is free
when no sequence uses it any more.
"""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class _Span:
    """Consecutive cells: how many of them, from the first on, each sequence uses."""

    uses: dict[int, int]

    @property
    def size(self) -> int:
        return max(self.uses.values(), default=0)


class CellLedger:
    """The cells of one cache. Nothing here checks that there are enough: `num_free` says so."""

    def __init__(self, num_cells: int) -> None:
        self.num_free = num_cells
        self._spans: dict[int, list[_Span]] = {}

    def claim(self, seq_id: int, count: int) -> None:
        """`count` free cells for `seq_id`, after those that it has."""
        if not count:
            return
        spans = self._spans.setdefault(seq_id, [])
        if spans and spans[-1].uses.keys() == {seq_id}:
            spans[-1].uses[seq_id] += count
        else:
            spans.append(_Span({seq_id: count}))
        self.num_free -= count

    def num_of(self, seq_id: int) -> int:
        """Cells that `seq_id` uses."""
        return sum(span.uses[seq_id] for span in self._spans.get(seq_id, ()))

    def share(self, source: int, target: int, count: int) -> None:
        """Let `target` use the first `count` cells of `source` too."""
        spans = self._spans.setdefault(target, [])
        for span in self._spans[source]:
            taken = min(span.uses[source], count)
            if not taken:
                return
            span.uses[target] = taken
            spans.append(span)
            count -= taken

    def cut(self, seq_id: int, count: int) -> None:
        """Leave `seq_id` its first `count` cells; the others are free unless they are shared."""
        kept: list[_Span] = []
        for span in self._spans.pop(seq_id, []):
            before = span.size
            taken = min(span.uses.pop(seq_id), count)
            count -= taken
            if taken:
                span.uses[seq_id] = taken
                kept.append(span)
            self.num_free += before - span.size
        if kept:
            self._spans[seq_id] = kept

    def held_by(self, seq_ids: Iterable[int]) -> int:
        """Cells that at least one of `seq_ids` uses."""
        holders = set(seq_ids)
        spans = {id(span): span for seq_id in holders for span in self._spans.get(seq_id, ())}
        return sum(
            max(count for seq_id, count in span.uses.items() if seq_id in holders)
            for span in spans.values()
        )
