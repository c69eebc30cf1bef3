"""Random arrivals, steps and cancels: nothing leaks, nothing starves, no batch breaks its rules."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runtime.errors import Overloaded, PromptTooLong
from runtime.plan import Limits, Plan
from runtime.sampling import SamplingParams
from runtime.scheduler import Scheduler
from runtime.sequence import EngineSequence, Request

LIMITS = Limits(sequences=3, cells=700, batch_tokens=8, waiting=5)


class SchedulerMachine(RuleBasedStateMachine):
    """Plays the engine: evaluates plans, decides, samples until max_tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler(LIMITS)
        self.open: list[EngineSequence] = []
        self.num_arrived = 0

    @rule(num_prompt=st.integers(1, 400), num_reply=st.integers(1, 250), decides=st.booleans())
    def arrive(self, num_prompt: int, num_reply: int, decides: bool) -> None:
        on_state = (lambda _: [1]) if decides else None
        self.num_arrived += 1  # no prompt begins like another: see test_residents for that
        prompt = [self.num_arrived] * num_prompt
        request = Request(prompt, SamplingParams(max_tokens=num_reply), on_state)
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

    @rule(decision=st.integers(1, 200), stop=st.booleans(), count=st.integers(1, 60))
    def steps(self, decision: int, stop: bool, count: int) -> None:
        for _ in range(count - 1):
            self.step(decision, stop=False)
        self.step(decision, stop)

    def step(self, decision: int, stop: bool) -> None:
        list(self.scheduler.admit())
        oldest = self.scheduler.running[:1]
        plan = self.scheduler.plan()
        assert self.scheduler.running[:1] == oldest, "the oldest is never preempted"
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
        used = sum(s.num_evaluated for s in running)
        assert used <= LIMITS.cells - self.scheduler.num_free_cells
        assert 0 <= self.scheduler._cells.num_free <= self.scheduler.num_free_cells

    @invariant()
    def nobody_evaluates_more_than_it_said(self) -> None:
        assert all(len(s.tokens) <= s.num_cells_needed for s in self.open)

    @invariant()
    def nobody_is_preempted_twice(self) -> None:
        assert all(s.num_preempted <= 1 for s in self.open)

    def teardown(self) -> None:
        """Whatever was left open ends in a bounded number of steps."""
        # a step evaluates a token at least, and none more often than twice
        bound = 2 * sum(s.num_cells_needed for s in self.open)
        for _ in range(bound):
            if not self.open:
                break
            self.step(decision=5, stop=False)
        assert not self.open
        assert (self.scheduler.num_claimed, self.scheduler.num_free_cells) == (0, LIMITS.cells)


TestScheduler = SchedulerMachine.TestCase
TestScheduler.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
