"""How much of a prompt rides with replies, on machines that tests make up."""

import pytest

from runtime.step_budget import LEAST, LEAST_ALONE, LONGEST_S, STRETCH, StepBudget


def play(budget: StepBudget, quiet: float, per_token: float, num_steps: int = 40) -> list[float]:
    """Steps with a long prompt on a machine of such speed, in seconds, after ten quiet ones."""
    for _ in range(10):
        budget.observe(1, 0, quiet)
    steps = []
    for _ in range(num_steps):
        count = budget.num_tokens
        steps.append(quiet + count * per_token)
        budget.observe(1, count, steps[-1])
    return steps


@pytest.mark.parametrize("quiet", [0.005, 0.02, 0.1])
@pytest.mark.parametrize("per_token", [0.0005, 0.001])
def test_replies_are_slowed_by_a_stated_factor_on_any_machine(
    quiet: float, per_token: float
) -> None:
    steps = play(StepBudget(), quiet, per_token)
    most = max(STRETCH * quiet, quiet + LEAST * per_token)
    assert max(steps[1:]) <= 1.001 * most
    assert steps[-1] >= min(most, STRETCH * quiet - per_token) * 0.999, "no more slowly than that"


def test_a_prompt_always_goes_on() -> None:
    budget = StepBudget()
    play(budget, quiet=0.001, per_token=1.0)
    assert budget.num_tokens == LEAST


def test_it_learns_that_the_machine_has_become_slow() -> None:
    budget = StepBudget()
    play(budget, quiet=0.02, per_token=0.0005)
    before = budget.num_tokens
    play(budget, quiet=0.02, per_token=0.002)
    assert budget.num_tokens < before / 3


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
        budget.observe(0, count, seconds)
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
        budget.observe(1, 0, fixed)
    budget.observe(0, 64, 8.0)  # a stall
    for _ in range(20):
        budget.observe(0, 20, fixed + 20 * per_token)  # turns that continue
    play_alone(budget, per_token, fixed=fixed)
    assert budget.num_alone == size


def test_a_prompt_of_a_few_words_says_nothing_about_long_ones() -> None:
    budget = StepBudget()
    budget.observe(0, LEAST_ALONE - 1, 5.0)
    assert budget.num_alone == 4 * LEAST_ALONE
