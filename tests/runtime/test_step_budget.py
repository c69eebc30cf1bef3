"""How much of a prompt rides with replies, on machines that tests make up."""

import random
from dataclasses import dataclass

import pytest

from runtime.step_budget import (
    LEAST,
    LEAST_ALONE,
    LONGEST_S,
    LONGEST_STALL_S,
    STALL,
    STRETCH,
    StepBudget,
)


@dataclass(frozen=True)
class Machine:
    """Seconds of a step of replies alone, and of each prompt token more; a share of wavering."""

    quiet: float
    per_token: float
    jitter: float = 0.0


def play(
    budget: StepBudget,
    machine: Machine,
    num_steps: int = 400,
    sides: tuple[int, int] = (1, 1),
    num_quiet: int = 10,
) -> list[tuple[int, float]]:
    """Prompt tokens and seconds of steps of so many replies and prompts that never end.

    `num_quiet` without prompts come before.
    """
    num_replies, num_prompts = sides
    draw = random.Random(0)
    for _ in range(num_quiet):
        budget.observe(num_replies, 0, 0, machine.quiet)
    steps = []
    for _ in range(num_steps):
        count = budget.num_tokens
        wavering = 1 + draw.uniform(-machine.jitter, machine.jitter)
        seconds = (machine.quiet + count * machine.per_token) * wavering
        steps.append((count, seconds))
        budget.observe(num_replies, count, num_prompts, steps[-1][1])
    return steps


MACHINES = pytest.mark.parametrize(
    ("quiet", "per_token"),
    [(q, t) for q in (0.005, 0.008, 0.02, 0.1, 0.3) for t in (0.0005, 0.002, 0.07)],
)


@MACHINES
def test_no_token_of_a_reply_comes_later_than_stated(quiet: float, per_token: float) -> None:
    longest = max(STRETCH * quiet, min(STALL * quiet, LONGEST_STALL_S), quiet + LEAST * per_token)
    steps = play(StepBudget(), Machine(quiet, per_token))[3:]
    assert max(seconds for _, seconds in steps) <= 1.001 * longest


@pytest.mark.parametrize("quiet", [0.003, 0.006, 0.010])
def test_on_a_quick_machine_19_of_20_tokens_come_as_if_nobody_else_was_there(quiet: float) -> None:
    late = [seconds > 1.01 * quiet for _, seconds in play(StepBudget(), Machine(quiet, 0.0015))]
    assert 0 < sum(late[3:]) < 0.05 * len(late[3:])


@pytest.mark.parametrize(("sides", "share"), [((1, 1), 0.44), ((4, 1), 0.17), ((1, 4), 0.72)])
def test_prompts_and_replies_share_the_time_by_how_many_they_are(
    sides: tuple[int, int], share: float
) -> None:
    quiet = 0.008
    steps = play(StepBudget(), Machine(quiet, 0.0015), 4_000, sides)
    extra = sum(seconds - quiet for _, seconds in steps)
    assert extra / sum(seconds for _, seconds in steps) == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("jitter", [0.0, 0.05, 0.1])
def test_where_all_steps_are_slow_each_is_stretched_a_little_and_next_to_nothing_owed(
    jitter: float,
) -> None:
    steps = play(StepBudget(), Machine(0.3, 0.05, jitter))[3:]
    speed = sum(count for count, _ in steps) / sum(seconds for _, seconds in steps)
    assert speed >= (1 - 1.5 * jitter) * (STRETCH - 1) / STRETCH / 0.05 * 0.95


@pytest.mark.parametrize("seconds", [0.5, 1.0, 5.0])
def test_one_late_step_makes_none_of_the_next_late(seconds: float) -> None:
    budget = StepBudget()
    play(budget, Machine(0.008, 0.0015))
    budget.observe(1, 0, 1, seconds)
    assert (
        max(step for _, step in play(budget, Machine(0.008, 0.0015), num_quiet=0))
        <= LONGEST_STALL_S
    )


def test_a_decision_does_not_wait_for_what_is_owed() -> None:
    budget = StepBudget()
    while budget.num_tokens:
        play(budget, Machine(0.008, 0.0015), num_steps=1)
    assert budget.num_decided > 0


def test_a_decisions_few_tokens_do_not_teach_what_those_of_a_long_prompt_cost() -> None:
    budget = StepBudget()
    play(budget, Machine(0.008, 0.0015))
    before = budget.num_decided
    budget.observe(1, LEAST_ALONE - 1, 1, 0.008 + 15 * 0.005)
    assert budget.num_decided == before


def test_a_machine_that_slept_owes_nobody_its_sleep() -> None:
    budget = StepBudget()
    play(budget, Machine(0.008, 0.0015))
    budget.observe(1, 64, 1, 60.0)
    assert any(count for count, _ in play(budget, Machine(0.008, 0.0015), num_steps=60))


def test_nothing_is_owed_to_replies_that_have_ended() -> None:
    budget = StepBudget()
    while budget.num_tokens:
        play(budget, Machine(0.008, 0.0015), num_steps=1)
    budget.observe(0, 64, 1, 0.1)
    assert budget.num_tokens > 0


def test_a_prompt_always_goes_on() -> None:
    counts = [count for count, _ in play(StepBudget(), Machine(0.001, 1.0), 2_000)]
    assert set(counts[-50:]) == {LEAST}


def test_it_learns_that_the_machine_has_become_slow() -> None:
    budget = StepBudget()
    before = max(count for count, _ in play(budget, Machine(0.02, 0.0005))[-50:])
    after = max(count for count, _ in play(budget, Machine(0.02, 0.002))[-50:])
    assert after < before / 3


def test_before_it_has_measured_anything_it_is_careful() -> None:
    assert 0 < StepBudget().num_tokens <= 32


def play_alone(
    budget: StepBudget, per_token: float, num_steps: int = 20, fixed: float = 0.0
) -> float:
    """Steps of a prompt that never ends; the last one's seconds."""
    seconds = 0.0
    for _ in range(num_steps):
        count = budget.num_alone
        seconds = fixed + count * per_token
        budget.observe(0, count, 1, seconds)
    return seconds


@pytest.mark.parametrize("per_token", [0.0011, 0.003, 0.02])
def test_a_step_of_prompts_is_short_enough_to_end_it_in_time(per_token: float) -> None:
    assert LONGEST_S / 2 <= play_alone(StepBudget(), per_token) <= LONGEST_S


def test_on_a_very_slow_machine_a_step_still_has_tokens_enough() -> None:
    budget = StepBudget()
    play_alone(budget, per_token=1.0)
    assert budget.num_alone == LEAST_ALONE


def test_a_machine_that_wavers_a_little_keeps_its_batches() -> None:
    budget = StepBudget()
    sizes = set()
    for per_token in [0.0014, 0.0016, 0.0015, 0.0013] * 5:
        play_alone(budget, per_token, num_steps=1)
        sizes.add(budget.num_alone)
    assert sizes == {256}


@pytest.mark.parametrize(
    ("fixed", "per_token", "size"), [(0.2, 0.004, 64), (0.16, 0.008, 32), (0.02, 0.0015, 256)]
)
def test_what_a_step_costs_by_itself_never_makes_the_next_ones_small_for_good(
    fixed: float, per_token: float, size: int
) -> None:
    budget = StepBudget()
    for _ in range(10):
        budget.observe(1, 0, 0, fixed)
    budget.observe(0, 64, 1, 8.0)  # a stall
    for _ in range(20):
        budget.observe(0, 20, 1, fixed + 20 * per_token)  # turns that continue
    play_alone(budget, per_token, fixed=fixed)
    assert budget.num_alone == size


def test_a_prompt_of_a_few_words_says_nothing_about_long_ones() -> None:
    budget = StepBudget()
    budget.observe(0, LEAST_ALONE - 1, 1, 5.0)
    assert budget.num_alone == 4 * LEAST_ALONE
