"""The scheduler's policy, played without a model: who is admitted, and what a batch holds."""

from collections.abc import Callable
from itertools import count

import pytest

from runtime.errors import Overloaded, PromptTooLong
from runtime.plan import Forget, Limits, Plan, Restore, Share
from runtime.sampling import SamplingParams
from runtime.scheduler import MIN_GAIN, ROOM, Scheduler
from runtime.sequence import MAX_DECISION_TOKENS, EngineSequence, Request

LIMITS = Limits(sequences=3, cells=1000, batch_tokens=16, waiting=4)


def make_scheduler(**changes: int) -> Scheduler:
    values = {name: getattr(LIMITS, name) for name in Limits.__slots__}
    return Scheduler(Limits(**(values | changes)))


_tokens = count(100)


def make_sequence(
    num_prompt: int = 5,
    *,
    max_tokens: int = 4,
    with_state: bool = False,
    token: int | None = None,
) -> EngineSequence:
    """A prompt of one token over and over, of its own unless it is given."""
    on_state: Callable[..., list[int]] | None = (lambda _: [1]) if with_state else None
    sampling = SamplingParams(max_tokens=max_tokens)
    token = next(_tokens) if token is None else token
    return EngineSequence(Request([token] * num_prompt, sampling, on_state), lambda _: None)


def add(scheduler: Scheduler, *sequences: EngineSequence) -> None:
    for sequence in sequences:
        scheduler.add(sequence)


def admit(scheduler: Scheduler, *sequences: EngineSequence) -> None:
    add(scheduler, *sequences)
    admitted(scheduler)


def admitted(scheduler: Scheduler) -> list[EngineSequence]:
    return [admission.sequence for admission in scheduler.admit()]


def advance(plan: Plan) -> None:
    """What the engine does after a batch: one more token known where an output came."""
    for part in plan.slices:
        part.sequence.num_evaluated += part.count
        if part.sequence.is_state_due and part.sequence.num_pending == 0:
            part.sequence.decide([1, 2, 3])
        elif part.is_output:
            part.sequence.tokens.append(8)


def counts(plan: Plan) -> list[tuple[EngineSequence, int, bool]]:
    return [(part.sequence, part.count, part.is_output) for part in plan.slices]


def test_requests_are_admitted_in_order_of_arrival() -> None:
    scheduler, sequences = make_scheduler(), [make_sequence() for _ in range(4)]
    add(scheduler, *sequences)
    assert admitted(scheduler) == sequences[:3]
    scheduler.remove(sequences[1])
    assert admitted(scheduler) == sequences[3:]


def test_admitted_sequences_have_ids_of_their_own() -> None:
    scheduler, sequences = make_scheduler(), [make_sequence() for _ in range(3)]
    admit(scheduler, *sequences)
    assert {sequence.seq_id for sequence in sequences} == {0, 1, 2}
    assert scheduler.num_claimed == 3


def test_a_request_claims_its_prompt_and_some_room_or_less_if_it_cannot_need_that() -> None:
    scheduler = make_scheduler()
    admit(
        scheduler, make_sequence(5, max_tokens=4), make_sequence(6, max_tokens=3, with_state=True)
    )
    assert ROOM < MAX_DECISION_TOKENS
    assert scheduler.num_free_cells == 1000 - (5 + 4) - (6 + ROOM)


def test_the_youngest_gives_its_cells_to_an_older_reply_and_goes_on_later() -> None:
    scheduler = make_scheduler(cells=500)
    older, younger = (make_sequence(20, max_tokens=300) for _ in range(2))
    admit(scheduler, older, younger)
    while younger in scheduler.running:
        plan = scheduler.plan()
        advance(plan)
    assert len(older.tokens) + len(younger.tokens) > 500
    assert [step.seq_id for step in plan.steps if isinstance(step, Forget)] == [1]
    assert (list(scheduler.waiting), younger.num_evaluated) == ([younger], 0)
    assert (scheduler.num_preempted, younger.num_preempted) == (1, 1)
    while len(older.reply) < 300:
        assert admitted(scheduler) == [], "it would have to give way again"
        advance(scheduler.plan())
    num_replied = len(younger.reply)
    scheduler.remove(older)
    assert admitted(scheduler) == [younger]
    while len(younger.reply) == num_replied:
        plan = scheduler.plan()
        assert all(part.count == 16 for part in plan.slices) or plan.slices[0].is_output
        advance(plan)
    assert younger.num_evaluated == 20 + num_replied


def test_nobody_is_preempted_twice_though_others_hold_more_than_they_need() -> None:
    """With short decisions they hold room that they will never use."""
    scheduler = make_scheduler(cells=2_586, sequences=20, batch_tokens=512, waiting=30)
    admit(scheduler, make_sequence(20, max_tokens=300))
    for _ in range(60):
        advance(scheduler.plan())
    youngest = make_sequence(20, max_tokens=300)
    add(scheduler, *(make_sequence(100, max_tokens=90, with_state=True) for _ in range(10)))
    add(scheduler, youngest)
    while scheduler.has_work:
        admitted(scheduler)
        assert scheduler._cells.num_free >= 0
        advance(scheduler.plan())
        for sequence in [*scheduler.running]:
            if len(sequence.reply) >= sequence.request.sampling.max_tokens:
                scheduler.remove(sequence)
    assert youngest.num_preempted == 1


def test_a_resident_makes_way_before_anyone_is_preempted() -> None:
    scheduler = make_scheduler(cells=500, residents=2)
    gone = make_sequence(100, max_tokens=4)
    admit(scheduler, gone)
    gone.num_evaluated = 100
    scheduler.remove(gone, is_kept=True)
    speaker = make_sequence(60, max_tokens=400)
    admit(scheduler, speaker)
    while scheduler.num_residents:
        plan = scheduler.plan()
        advance(plan)
    assert plan.steps == [Forget(0)]
    assert len(speaker.tokens) > 400
    assert scheduler.running == [speaker]


def test_a_prompt_waits_while_another_evaluates_what_they_begin_with() -> None:
    scheduler = make_scheduler()
    first, second = (make_sequence(100, token=7) for _ in range(2))
    admit(scheduler, first, second)
    while first.num_evaluated + MIN_GAIN <= 99:
        assert scheduler.running == [first]
        advance(scheduler.plan())
        found = list(scheduler.admit())
    assert [admission.steps for admission in found] == [[Share(0, 1, first.num_evaluated)]]
    assert second.num_cached == second.num_evaluated == first.num_evaluated


def test_what_another_evaluates_is_not_waited_for_once_it_is_gone() -> None:
    scheduler = make_scheduler()
    first, second = (make_sequence(100, token=7) for _ in range(2))
    admit(scheduler, first, second)
    scheduler.remove(first)
    assert admitted(scheduler) == [second]


def test_a_stored_prefix_is_restored_where_nothing_in_the_cache_is_as_long() -> None:
    stored = [7] * 40
    scheduler = Scheduler(LIMITS, lambda tokens: list(tokens) == stored)
    requests = [Request([7] * 40 + [who] * 9, prefixes=[20, 40]) for who in (1, 2)]
    first, second = (EngineSequence(request, lambda _: None) for request in requests)
    add(scheduler, first, second)
    found = list(scheduler.admit())
    assert [step for admission in found for step in admission.steps] == [
        Restore(0, 40),
        Share(0, 1, 40),
    ]
    assert first.num_evaluated == second.num_evaluated == 40


def test_prompts_have_no_more_than_their_share_of_a_batch_with_replies() -> None:
    scheduler, talker = make_scheduler(), make_sequence(5)
    admit(scheduler, talker)
    advance(scheduler.plan())
    newcomer = make_sequence(20)
    admit(scheduler, newcomer)
    assert counts(scheduler.plan(3)) == [(talker, 1, True), (newcomer, 3, False)]
    scheduler.remove(talker)
    assert counts(scheduler.plan(3, 7)) == [(newcomer, 7, False)], "of a step of its own another"
    assert counts(scheduler.plan(3)) == [(newcomer, 16, False)], "nobody has to wait"


def test_a_decision_is_read_though_prompts_have_to_wait() -> None:
    scheduler, talker, decided = (
        make_scheduler(),
        make_sequence(5),
        make_sequence(5, with_state=True),
    )
    admit(scheduler, talker, decided)
    while not decided.is_at_state:
        advance(scheduler.plan())
    decided.num_evaluated += 1
    decided.decide([7] * 6)
    prompt = make_sequence(20)
    admit(scheduler, prompt)
    assert counts(scheduler.plan(0, num_decided=4)) == [(talker, 1, True), (decided, 4, False)]
    plan = scheduler.plan(8, num_decided=8)
    assert counts(plan) == [(talker, 1, True), (decided, 6, True), (prompt, 2, False)]


def test_a_plan_tells_how_many_prompts_there_are_to_read() -> None:
    scheduler, talker = make_scheduler(), make_sequence(5)
    admit(scheduler, talker)
    assert scheduler.plan().num_prompts == 1
    advance(scheduler.plan())
    assert scheduler.plan().num_prompts == 0
    alike = [make_sequence(40, token=7) for _ in range(3)]
    add(scheduler, *alike)
    assert admitted(scheduler) == alike[:1], "the others wait for what it reads"
    assert scheduler.plan().num_prompts == 2, "there is room for one more"


def test_prompts_that_wait_for_a_state_are_told_of_too() -> None:
    scheduler, decider = make_scheduler(), make_sequence(1, with_state=True)
    admit(scheduler, decider, make_sequence(20))
    plan = scheduler.plan()
    assert (plan.embeddings, plan.num_replies, plan.num_prompts) == (True, 1, 1)


def test_a_small_request_does_not_overtake_a_large_one_that_waits_for_cells() -> None:
    scheduler = make_scheduler()
    first, large, small = make_sequence(600), make_sequence(600), make_sequence(1)
    admit(scheduler, first, large, small)
    assert scheduler.running == [first]
    scheduler.remove(first)
    assert admitted(scheduler) == [large, small]


def test_a_removed_sequence_gives_back_its_id_and_cells() -> None:
    scheduler, running, waiting = make_scheduler(sequences=1), make_sequence(), make_sequence()
    admit(scheduler, running, waiting)
    scheduler.remove(running)
    scheduler.remove(waiting)
    assert running.seq_id is None
    assert (scheduler.num_claimed, scheduler.num_free_cells) == (0, 1000)
    assert not scheduler.has_work


def test_a_request_that_cannot_be_placed_still_waits_and_the_id_it_took_is_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler, sequence = make_scheduler(), make_sequence()

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("runtime.cells.CellLedger.claim", fail)
    with pytest.raises(ZeroDivisionError):
        admit(scheduler, sequence)
    assert list(scheduler.waiting) == [sequence]
    scheduler.remove(sequence)
    assert not scheduler.has_work
    assert scheduler.num_claimed == 1


def test_a_full_queue_is_overloaded_at_once() -> None:
    scheduler = make_scheduler(sequences=1, waiting=2)
    running = make_sequence()
    admit(scheduler, running)
    add(scheduler, make_sequence(), make_sequence())
    with pytest.raises(Overloaded, match="2 requests are waiting already"):
        scheduler.add(make_sequence())
    scheduler.remove(running)
    admitted(scheduler)
    scheduler.add(make_sequence())


def test_a_burst_that_can_start_at_once_does_not_count_as_waiting() -> None:
    scheduler = make_scheduler(sequences=3, waiting=1)
    add(scheduler, *(make_sequence() for _ in range(4)))
    with pytest.raises(Overloaded):
        scheduler.add(make_sequence())


def test_a_prompt_that_can_never_fit_is_refused_with_both_numbers() -> None:
    scheduler = make_scheduler()
    with pytest.raises(PromptTooLong, match=r"997 prompt tokens .* need 1001 .* has 1000"):
        scheduler.add(make_sequence(997, max_tokens=4))
    assert not scheduler.has_work
    scheduler.add(make_sequence(996, max_tokens=4))


def test_a_request_too_long_is_told_so_even_when_the_queue_is_full() -> None:
    scheduler = make_scheduler(waiting=0)
    with pytest.raises(PromptTooLong):
        scheduler.add(make_sequence(2000))


def test_without_requests_there_is_nothing_to_plan() -> None:
    assert make_scheduler().plan() == Plan([], embeddings=False)


def test_a_prompt_is_prefilled_in_chunks_of_the_budget_and_only_its_end_is_an_output() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(40)
    admit(scheduler, sequence)
    seen = []
    for _ in range(4):
        plan = scheduler.plan()
        seen += counts(plan)
        advance(plan)
    assert seen == [
        (sequence, 16, False),
        (sequence, 16, False),
        (sequence, 8, True),
        (sequence, 1, True),
    ]


def test_replies_come_first_and_prompts_share_what_is_left() -> None:
    scheduler, talker = make_scheduler(), make_sequence(5)
    admit(scheduler, talker)
    advance(scheduler.plan())
    first, second = make_sequence(10), make_sequence(10)
    admit(scheduler, first, second)
    plan = scheduler.plan()
    assert counts(plan) == [(talker, 1, True), (first, 10, True), (second, 5, False)]


def test_prompts_are_evaluated_up_to_state_without_outputs() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(6, with_state=True)
    admit(scheduler, sequence)
    assert counts(scheduler.plan()) == [(sequence, 5, False)]


def test_a_batch_with_state_holds_outputs_only() -> None:
    scheduler = make_scheduler()
    talker, decider, newcomer = (
        make_sequence(5),
        make_sequence(6, with_state=True),
        make_sequence(30),
    )
    admit(scheduler, talker, decider)
    advance(scheduler.plan())
    admit(scheduler, newcomer)
    plan = scheduler.plan()
    assert plan.embeddings
    assert counts(plan) == [(talker, 1, True), (decider, 1, True)]
    advance(plan)
    assert not scheduler.plan().embeddings


def test_after_the_decision_its_tokens_are_evaluated_and_the_last_is_an_output() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(6, with_state=True)
    admit(scheduler, sequence)
    advance(scheduler.plan())
    advance(scheduler.plan())
    assert counts(scheduler.plan()) == [(sequence, 3, True)]


def test_a_prompt_of_state_alone_is_evaluated_at_once() -> None:
    scheduler, sequence = make_scheduler(), make_sequence(1, with_state=True)
    admit(scheduler, sequence)
    assert scheduler.plan().embeddings
    assert counts(scheduler.plan()) == [(sequence, 1, True)]
