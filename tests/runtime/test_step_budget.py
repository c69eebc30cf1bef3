"""How much of a prompt rides with replies, on machines that tests make up."""

import pytest

from runtime.step_budget import LEAST, STRETCH, StepBudget


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
