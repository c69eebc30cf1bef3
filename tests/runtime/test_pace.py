"""Whether one more request can make its deadline, by how long others took."""

import pytest

from runtime.errors import Overloaded
from runtime.pace import Pace
from runtime.sequence import EngineSequence, Request

NOW = 1_000.0


def waiting(deadline: float | None) -> EngineSequence:
    return EngineSequence(Request([1, 2], deadline=deadline), lambda _: None)


def takes(pace: Pace, left: float | None, num_ahead: int = 1, num_places: int = 1) -> bool:
    """Whether a request with so many seconds left is taken behind so many others."""
    deadline = None if left is None else NOW + left
    try:
        pace.check_deadline(waiting(deadline), num_ahead, num_places, NOW)
    except Overloaded:
        return False
    return True


def ended(*, queue: float = 5.0, state: float | None = None, **marks: float) -> EngineSequence:
    """Seconds since it was submitted."""
    sequence = waiting(None)
    spans = {"queue": queue, **({} if state is None else {"state": state}), **marks}
    sequence.watch.marks = {k: sequence.watch.submitted + s for k, s in spans.items()}
    return sequence


@pytest.fixture
def pace() -> Pace:
    """Requests take a second to the state and four in all, whatever they had to wait."""
    pace = Pace()
    for queue in (0.0, 7.0):
        pace.observe(ended(queue=queue, state=queue + 1, first_token=queue + 2, total=queue + 4))
    return pace


def test_one_whose_turn_comes_too_late_is_refused_with_both_times(pace: Pace) -> None:
    with pytest.raises(
        Overloaded, match=r"3 of those before it.*about 10\.0 s.*deadline is in 9\.0 s"
    ):
        pace.check_deadline(waiting(NOW + 9), 3, 2, NOW)


def test_one_that_will_be_finished_in_time_is_taken(pace: Pace) -> None:
    assert takes(pace, 10.5, 3, 2)


def test_one_that_can_begin_at_once_is_always_taken(pace: Pace) -> None:
    assert takes(pace, 0.001, 0, 2)


def test_one_without_a_deadline_is_always_taken(pace: Pace) -> None:
    assert takes(pace, None, 1_000, 1)


def test_nothing_is_foretold_before_anything_has_ended() -> None:
    pace = Pace()
    assert takes(pace, 0.001, 1_000, 1)
    assert not pace.is_hopeless(waiting(NOW + 0.001), NOW)


def test_one_that_waits_is_hopeless_once_its_state_would_come_too_late(pace: Pace) -> None:
    assert pace.is_hopeless(waiting(NOW + 0.9), NOW)
    assert not pace.is_hopeless(waiting(NOW + 1.1), NOW)


def test_one_that_was_preempted_is_not_given_up(pace: Pace) -> None:
    sequence = waiting(NOW + 0.9)
    sequence.num_preempted = 1
    assert not pace.is_hopeless(sequence, NOW)


def test_one_that_never_began_teaches_nothing() -> None:
    pace = Pace()
    sequence = waiting(None)
    sequence.watch.mark("total")
    pace.observe(sequence, is_cut=True)
    assert takes(pace, 0.001, 1_000, 1)


def test_one_that_was_cut_tells_only_that_it_takes_longer(pace: Pace) -> None:
    for _ in range(60):
        pace.observe(ended(state=5.1, total=5.4), is_cut=True)
    assert not takes(pace, 7.9)
    for _ in range(60):
        pace.observe(ended(total=15.0), is_cut=True)
    assert not takes(pace, 19.5)
    assert pace.is_hopeless(waiting(NOW + 9.5), NOW), "nor was its state told by then"


def test_the_newest_count_most(pace: Pace) -> None:
    for _ in range(60):
        pace.observe(ended(state=5.1, total=5.4))
    assert takes(pace, 1.1)


def test_one_slow_beginning_is_soon_forgotten() -> None:
    pace = Pace()
    pace.observe(ended(state=50.0, total=60.0))
    for _ in range(9):
        pace.observe(ended(state=5.5, total=6.0))
    assert takes(pace, 14)


def test_a_new_engine_begins_with_what_the_old_one_has_learnt(pace: Pace) -> None:
    new = Pace(pace)
    assert not takes(new, 7.9)
    new.observe(ended(state=5.1, total=5.2))
    assert takes(new, 4.5)
    assert not takes(pace, 7.9)
