"""Random arrivals, steps and cancels: nothing leaks, nothing starves, no batch breaks its rules."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.errors import Overloaded, PromptTooLong
from runtime.sampling import SamplingParams
from runtime.scheduler import Limits, Plan, Scheduler
from runtime.sequence import EngineSequence, Request

LIMITS = Limits(sequences=3, cells=700, batch_tokens=8, waiting=5)


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine: evaluates plans, decides, samples until max_tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.open: list[EngineSequence] = []

    @rule(num_prompt=st.integers(1, 400), max_tokens=st.integers(1, 60), decides=st.booleans())
    def arrive(self, num_prompt: int, max_tokens: int, decides: bool) -> None:
        on_state = (lambda _: [1]) if decides else None
        request = Request([7] * num_prompt, SamplingParams(max_tokens=max_tokens), on_state)
        sequence = EngineSequence(request, lambda _: None)
        try:
            self.scheduler.add(sequence)
        except Overloaded:
            num_free = LIMITS.sequences - self.scheduler.num_claimed
            assert len(self.scheduler.waiting) == LIMITS.waiting + num_free
        except PromptTooLong:
            assert sequence.num_cells_needed > LIMITS.cells
        else:
            self.open.append(sequence)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(self.open)))

    @rule(decision=st.integers(1, 20), stop=st.booleans())
    def step(self, decision: int, stop: bool) -> None:
        list(self.scheduler.admit())
        plan = self.scheduler.plan()
        self.check(plan)
        for part in plan.slices:
            sequence = part.sequence
            sequence.num_evaluated += part.count
            if sequence.is_state_due:
                if sequence.num_pending == 0:
                    sequence.decide([1] * decision)
            elif part.is_output:
                self.sample(sequence, stop)

    def sample(self, sequence: EngineSequence, stop: bool) -> None:
        sequence.tokens.append(8)
        if stop or len(sequence.reply) == sequence.request.sampling.max_tokens:
            self.end(sequence)

    def end(self, sequence: EngineSequence) -> None:
        self.scheduler.remove(sequence)
        self.open.remove(sequence)

    def check(self, plan: Plan) -> None:
        assert bool(plan.slices) == self.scheduler.has_work
        assert sum(part.count for part in plan.slices) <= LIMITS.batch_tokens
        for part in plan.slices:
            sequence = part.sequence
            assert 1 <= part.count <= sequence.num_pending
            is_state = sequence.is_state_due and part.count == sequence.num_pending
            assert part.is_output == (part.count == sequence.num_pending)
            assert plan.embeddings or not is_state, "the vector would be missing"
        if plan.embeddings:
            assert all(part.is_output and part.count == 1 for part in plan.slices)
        talking = {id(s) for s in self.scheduler.running if s.is_replying}
        assert talking <= {id(part.sequence) for part in plan.slices}, "replies never wait"

    @invariant()
    def nothing_leaks(self) -> None:
        running, waiting = self.scheduler.running, self.scheduler.waiting
        assert [s for s in self.open if s.seq_id is not None] == running, "in order of arrival"
        assert [s for s in self.open if s.seq_id is None] == list(waiting)
        assert len({s.seq_id for s in running}) == len(running) == self.scheduler.num_claimed
        claimed = sum(s.num_cells_needed for s in running)
        assert self.scheduler.num_free_cells == LIMITS.cells - claimed >= 0

    @invariant()
    def nobody_evaluates_more_than_was_claimed(self) -> None:
        assert all(len(s.tokens) <= s.num_cells_needed for s in self.open)

    def teardown(self) -> None:
        """Whatever was left open ends in a bounded number of steps."""
        # A step evaluates a token at least, of the sequences that run.
        bound = sum(s.num_cells_needed for s in self.open)
        for _ in range(bound):
            if not self.open:
                break
            self.step(decision=5, stop=False)
        assert not self.open
        assert (self.scheduler.num_claimed, self.scheduler.num_free_cells) == (0, LIMITS.cells)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
