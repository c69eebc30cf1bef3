import numpy as np

from tests.train.test_fit_heads import draw, labelled, linear_labels, normal, targets
from train.fit_heads import Array, fit
from train.head_shapes import Labelled, Shape, shapes

COUNT = 2_000


def by_name(*, is_linear: bool) -> dict[str, Shape]:
    """Shapes on flags that are linear in the states, or raised where two signs differ."""

    def both(states: Array) -> Labelled:
        delta, flag = linear_labels(states)
        if not is_linear:
            signs = normal(states)[:, :2] > 0
            flag = np.stack([signs[:, 0] != signs[:, 1], signs[:, 0]], axis=1).astype(float)
        return Labelled(labelled(states), targets(delta, flag))

    given, wanted = both(draw(COUNT, 0)), both(draw(500, 1))
    trained = fit(given.states, given.targets)[0]
    return {shape.name: shape for shape in shapes(trained, given, wanted)}


def test_what_is_linear_needs_no_hidden_layer() -> None:
    found = by_name(is_linear=True)
    assert next(iter(found)) == "linear, as trained"
    linear = found["linear, fitted anew"].flag_merit
    assert linear.value is not None
    assert linear.value > 0.97
    assert linear.low is not None
    assert linear.low <= linear.value


def test_what_is_not_linear_is_found_by_a_hidden_layer() -> None:
    found = by_name(is_linear=False)
    linear = found["linear, fitted anew"].flag_merit
    hidden = found["one hidden layer of 64, fitted anew"].flag_merit
    assert linear.high is not None
    assert hidden.low is not None
    assert hidden.low > linear.high
