"""The ledger against a model of llama.cpp's cells: each a set of the sequences that use it."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.cells import CellLedger

NUM_CELLS, IDS = 60, range(5)


class LedgerMachine(RuleBasedStateMachine):
    """Sequences claim, share and give back cells."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = CellLedger(NUM_CELLS)
        self.held: dict[int, list[set[int]]] = {}

    @property
    def used(self) -> list[set[int]]:
        cells = {id(cell): cell for held in self.held.values() for cell in held}
        return list(cells.values())

    @rule(seq_id=st.sampled_from(IDS), count=st.integers(0, 20))
    def claim(self, seq_id: int, count: int) -> None:
        count = min(count, self.ledger.num_free)
        self.ledger.claim(seq_id, count)
        self.held.setdefault(seq_id, []).extend({seq_id} for _ in range(count))

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), count=st.integers(0, 30))
    def share(self, data: st.DataObject, count: int) -> None:
        source = data.draw(st.sampled_from([i for i in self.held if self.held[i]]))
        free = [i for i in IDS if not self.held.get(i)]
        if not free:
            return
        target = data.draw(st.sampled_from(free))
        self.ledger.share(source, target, count)
        shared = self.held[source][:count]
        for cell in shared:
            cell.add(target)
        self.held[target] = list(shared)

    @rule(seq_id=st.sampled_from(IDS), count=st.integers(0, 30))
    def cut(self, seq_id: int, count: int) -> None:
        self.ledger.cut(seq_id, count)
        held = self.held.get(seq_id, [])
        for cell in held[count:]:
            cell.discard(seq_id)
        self.held[seq_id] = held[:count]

    @invariant()
    def free_cells_are_those_that_nobody_uses(self) -> None:
        assert self.ledger.num_free == NUM_CELLS - len(self.used)

    @invariant()
    def shared_cells_are_counted_once(self) -> None:
        for ids in ([0], [0, 1], [2, 3, 4], list(IDS)):
            expected = sum(1 for cell in self.used if cell & set(ids))
            assert self.ledger.held_by(ids) == expected


TestLedger = LedgerMachine.TestCase
