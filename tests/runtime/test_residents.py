"""Residents played without a model: a cache of lists does what the scheduler says."""

from collections.abc import Sequence

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.errors import Overloaded
from runtime.plan import Admission, CacheStep, Forget, Limits, Restore, Share, SwapIn, SwapOut
from runtime.sampling import SamplingParams
from runtime.scheduler import Scheduler
from runtime.sequence import EngineSequence, Request
from runtime.swap_space import SwapSpace

LIMITS = Limits(sequences=2, cells=120, batch_tokens=16, waiting=4, residents=2)


class Cache:
    """What llama.cpp would hold: the cells of each sequence, a shared cell being one object.

    A state is the tokens, as bytes.
    """

    def __init__(self, swap: SwapSpace | None = None) -> None:
        self.cells: dict[int, list[list[int]]] = {}
        self.swap = SwapSpace() if swap is None else swap

    def do(self, steps: list[CacheStep], tokens: Sequence[int] = ()) -> None:
        for step in steps:
            if isinstance(step, Restore):
                assert not self.cells.get(step.seq_id), "it is empty"
                assert tokens, "only an admission restores"
                self.evaluate(step.seq_id, tokens[: step.end])
            elif isinstance(step, SwapIn):
                assert not self.cells.get(step.seq_id), "it is empty"
                assert len(step.state) == step.end
                self.evaluate(step.seq_id, [*step.state])
                self.swap.num_restored += 1
            elif isinstance(step, SwapOut):
                del self.cells[step.seq_id][len(step.tokens) :]
                assert self.tokens(step.seq_id) == step.tokens
                self.swap.put(step.tokens, bytes(step.tokens))
            elif isinstance(step, Share):
                assert not self.cells.get(step.target), "a target is empty"
                assert step.end <= len(self.cells[step.source])
                self.cells[step.target] = self.cells[step.source][: step.end]
            else:
                self.cells[step.seq_id] = self.cells.get(step.seq_id, [])[: step.start]

    def tokens(self, seq_id: int) -> list[int]:
        return [cell[0] for cell in self.cells.get(seq_id, [])]

    def evaluate(self, seq_id: int, tokens: Sequence[int]) -> None:
        self.cells.setdefault(seq_id, []).extend([token] for token in tokens)

    @property
    def num_used(self) -> int:
        return len({id(cell) for held in self.cells.values() for cell in held})


def sequence(prompt: list[int], max_tokens: int = 4) -> EngineSequence:
    return EngineSequence(Request(prompt, SamplingParams(max_tokens=max_tokens)), lambda _: None)


class ResidentsMachine(RuleBasedStateMachine):
    """Random conversations that begin alike, cancelled now and then."""

    swap_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.stored: set[int] = set()
        self.swap = SwapSpace(self.swap_bytes)
        self.scheduler = Scheduler(LIMITS, self.is_stored, swap=self.swap)
        self.cache = Cache(self.swap)
        self.open: list[EngineSequence] = []

    def is_stored(self, prefix: Sequence[int]) -> bool:
        return prefix[0] in self.stored and len(prefix) == 20

    @rule(head=st.integers(1, 3))
    def store(self, head: int) -> None:
        self.stored ^= {head}

    @rule(
        head=st.integers(1, 3),
        rest=st.lists(st.integers(1, 2), max_size=50),
        max_tokens=st.integers(1, 40),
    )
    def arrive(self, head: int, rest: list[int], max_tokens: int) -> None:
        prefixes = [20] if rest else []
        asked = Request(
            [head] * 20 + rest, SamplingParams(max_tokens=max_tokens), prefixes=prefixes
        )
        arrived = EngineSequence(asked, lambda _: None)
        try:
            self.scheduler.add(arrived)
        except Overloaded:
            assert len(self.scheduler.waiting) >= LIMITS.waiting
        else:
            self.open.append(arrived)

    @precondition(lambda self: self.open)
    @rule(data=st.data(), is_kept=st.booleans())
    def end(self, data: st.DataObject, is_kept: bool) -> None:
        self.finish(data.draw(st.sampled_from(self.open)), is_kept)

    @rule(token=st.integers(1, 2))
    def step(self, token: int) -> None:
        for admission in self.scheduler.admit():
            self.begin(admission)
        plan = self.scheduler.plan()
        self.cache.do(plan.steps)
        for part in plan.slices:
            running = part.sequence
            assert running.seq_id is not None
            assert self.cache.tokens(running.seq_id) == running.tokens[: running.num_evaluated]
            end = running.num_evaluated + part.count
            self.cache.evaluate(running.seq_id, running.tokens[running.num_evaluated : end])
            running.num_evaluated = end
            if part.is_output:
                running.tokens.append(token)
                if len(running.reply) == running.request.sampling.max_tokens:
                    self.finish(running, is_kept=True)

    def begin(self, admission: Admission) -> None:
        begun = admission.sequence
        self.cache.do(admission.steps, begun.tokens)
        assert begun.seq_id is not None
        assert self.cache.tokens(begun.seq_id) == begun.tokens[: begun.num_evaluated]
        assert begun.num_evaluated < len(begun.tokens)
        if not begun.num_preempted:
            assert begun.num_cached == begun.num_evaluated < len(begun.request.prompt)

    def finish(self, ended: EngineSequence, is_kept: bool) -> None:
        self.cache.do(self.scheduler.remove(ended, is_kept=is_kept))
        self.open.remove(ended)

    @invariant()
    def the_cache_never_holds_more_than_it_has(self) -> None:
        assert self.cache.num_used <= LIMITS.cells
        assert self.scheduler.num_residents <= LIMITS.residents
        assert self.scheduler.num_resident_cells >= 0
        assert self.scheduler.num_claimed == len(self.scheduler.running)
        assert self.swap.num_bytes <= self.swap_bytes

    @invariant()
    def what_nobody_runs_and_nobody_keeps_is_forgotten(self) -> None:
        holding = {seq_id for seq_id, held in self.cache.cells.items() if held}
        running = {s.seq_id for s in self.scheduler.running}
        assert len(holding - running) == self.scheduler.num_residents

    def teardown(self) -> None:
        for _ in range(800):
            if not self.open:
                break
            self.step(token=1)
        assert not self.open
        assert self.scheduler.num_free_cells == LIMITS.cells
        assert self.scheduler.num_resident_cells == self.cache.num_used


TestResidents = ResidentsMachine.TestCase
TestResidents.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


class SwappedMachine(ResidentsMachine):
    """The same, and what makes way goes to the swap space."""

    swap_bytes = 150


TestSwapped = SwappedMachine.TestCase
TestSwapped.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def play(scheduler: Scheduler, cache: Cache, asked: EngineSequence) -> EngineSequence:
    """One request from its arrival to its end."""
    scheduler.add(asked)
    for admission in scheduler.admit():
        cache.do(admission.steps)
    assert asked.seq_id is not None
    cache.evaluate(asked.seq_id, asked.tokens[asked.num_evaluated :])
    asked.num_evaluated = len(asked.tokens)
    cache.do(scheduler.remove(asked, is_kept=True))
    return asked


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(LIMITS)


def test_a_turn_goes_on_where_the_last_one_ended(scheduler: Scheduler) -> None:
    cache = Cache()
    play(scheduler, cache, sequence([1] * 20))
    second = play(scheduler, cache, sequence([1] * 20 + [2] * 5))
    assert second.num_cached == 20
    assert scheduler.num_residents == 1


def test_a_prompt_known_as_a_whole_is_evaluated_but_for_its_last_token(
    scheduler: Scheduler,
) -> None:
    cache = Cache()
    play(scheduler, cache, sequence([1] * 20))
    assert play(scheduler, cache, sequence([1] * 20)).num_cached == 19


def test_two_players_of_one_npc_share_her_block(scheduler: Scheduler) -> None:
    cache = Cache()
    play(scheduler, cache, sequence([7] * 20 + [1] * 5))
    second = play(scheduler, cache, sequence([7] * 20 + [2] * 5))
    assert second.num_cached == 20
    assert scheduler.num_residents == 2
    assert cache.num_used == 20 + 5 + 5 == scheduler.num_resident_cells
    assert play(scheduler, cache, sequence([7] * 20 + [1] * 5 + [3])).num_cached == 25


def test_the_least_recently_used_resident_makes_way(scheduler: Scheduler) -> None:
    cache = Cache()
    for token in (1, 2):
        play(scheduler, cache, sequence([token] * 20))
    play(scheduler, cache, sequence([1] * 20 + [9]))
    play(scheduler, cache, sequence([3] * 20))
    assert play(scheduler, cache, sequence([1] * 21)).num_cached == 20
    assert play(scheduler, cache, sequence([2] * 21)).num_cached == 0


def test_a_request_that_needs_all_cells_still_begins_where_its_resident_parts(
    scheduler: Scheduler,
) -> None:
    cache = Cache()
    play(scheduler, cache, sequence([1] * 40 + [2] * 40))
    play(scheduler, cache, sequence([5] * 30))
    large = play(scheduler, cache, sequence([1] * 40 + [3] * 70))
    assert large.num_cached == 40
    assert scheduler.num_residents == 1


def test_a_stranger_who_begins_with_the_same_two_tokens_keeps_nobody_alive(
    scheduler: Scheduler,
) -> None:
    cache = Cache()
    play(scheduler, cache, sequence([1, 2, *[3] * 8]))
    for token in range(4, 8):
        stranger = play(scheduler, cache, sequence([1, 2, *[token] * 18]))
        assert stranger.num_cached == 0
    assert play(scheduler, cache, sequence([1, 2, *[3] * 9])).num_cached == 0


def test_without_room_for_residents_nothing_is_kept() -> None:
    scheduler = Scheduler(Limits(sequences=2, cells=120, batch_tokens=16, waiting=4))
    asked = sequence([1] * 20)
    scheduler.add(asked)
    (admission,) = scheduler.admit()
    assert admission.steps == []
    asked.num_evaluated = 20
    (step,) = scheduler.remove(asked, is_kept=True)
    assert isinstance(step, Forget)
    assert scheduler.num_residents == 0


def swapping(num_bytes: int = 1000) -> tuple[Scheduler, Cache, SwapSpace]:
    swap = SwapSpace(num_bytes)
    return Scheduler(LIMITS, swap=swap), Cache(swap), swap


def test_a_conversation_that_made_way_goes_on_where_it_ended() -> None:
    scheduler, cache, swap = swapping()
    for token in (1, 2, 3):
        play(scheduler, cache, sequence([token] * 30))
    assert (len(swap), swap.num_bytes) == (1, 30)
    assert play(scheduler, cache, sequence([1] * 30 + [9] * 5)).num_cached == 30
    assert swap.num_restored == 1
    assert play(scheduler, cache, sequence([2] * 30 + [9] * 5)).num_cached == 30


def test_a_line_that_was_told_otherwise_than_it_was_sampled_costs_itself() -> None:
    scheduler, cache, _ = swapping()
    asked = sequence([1] * 30)
    asked.tokens += [7] * 4  # what it says
    for each in (asked, sequence([2] * 30), sequence([3] * 30)):
        play(scheduler, cache, each)
    assert play(scheduler, cache, sequence([1] * 30 + [8] * 6)).num_cached == 30


def test_what_was_swapped_out_is_of_use_only_as_a_whole() -> None:
    scheduler, cache, _ = swapping()
    for token in (1, 2, 3):
        play(scheduler, cache, sequence([token] * 30))
    assert play(scheduler, cache, sequence([1] * 29 + [9] * 5)).num_cached == 0


def test_what_a_resident_has_as_well_is_not_swapped_in() -> None:
    scheduler, cache, swap = swapping()
    for token in (1, 2, 3):
        play(scheduler, cache, sequence([token] * 30))
    play(scheduler, cache, sequence([1] * 25 + [9] * 10))
    # 25 cells are shared with a resident, 30 tokens are in memory: not worth a copy
    assert play(scheduler, cache, sequence([1] * 30 + [8])).num_cached == 25
    assert swap.num_restored == 0


def test_one_whose_cells_are_taken_over_is_swapped_out_before() -> None:
    scheduler, cache, _ = swapping()
    play(scheduler, cache, sequence([1] * 40 + [2] * 40))
    play(scheduler, cache, sequence([5] * 30))
    assert play(scheduler, cache, sequence([1] * 40 + [3] * 70)).num_cached == 40
    assert play(scheduler, cache, sequence([1] * 40 + [2] * 40 + [4])).num_cached == 80
    assert play(scheduler, cache, sequence([5] * 30 + [4])).num_cached == 30


def test_without_residents_everybody_is_swapped_out() -> None:
    swap = SwapSpace(1000)
    limits = Limits(sequences=2, cells=120, batch_tokens=16, waiting=4)
    scheduler, cache = Scheduler(limits, swap=swap), Cache(swap)
    play(scheduler, cache, sequence([1] * 30))
    assert play(scheduler, cache, sequence([1] * 30 + [2])).num_cached == 30
    assert not any(cache.cells.values())


def test_one_that_gave_its_cells_to_an_older_one_is_not_evaluated_anew() -> None:
    swap = SwapSpace(1000)
    limits = Limits(sequences=2, cells=400, batch_tokens=64, waiting=4, residents=2)
    scheduler, cache = Scheduler(limits, swap=swap), Cache(swap)
    old, young = sequence([1] * 40, 200), sequence([2] * 40, 200)
    for asked in (old, young):
        scheduler.add(asked)
    num_evaluated = 0
    while scheduler.has_work:
        for admission in scheduler.admit():
            cache.do(admission.steps)
        plan = scheduler.plan()
        cache.do(plan.steps)
        for part in plan.slices:
            running = part.sequence
            assert running.seq_id is not None
            start = running.num_evaluated
            cache.evaluate(running.seq_id, running.tokens[start : start + part.count])
            running.num_evaluated += part.count
            num_evaluated += part.count
            if part.is_output:
                running.tokens.append(7)
                if len(running.reply) == 200:
                    cache.do(scheduler.remove(running))
    assert scheduler.num_preempted == 1
    assert swap.num_restored == 1
    assert num_evaluated == 2 * (40 + 199), "each token once"
