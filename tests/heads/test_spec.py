import msgspec
import pytest

from heads.spec import DeltaSpec, FlagSpec, HeadSpec

GOOD = {
    "delta": [{"name": "trust"}, {"name": "relationship", "min": -0.5, "max": 0.5}],
    "flags": [{"name": "give_item", "threshold": 0.35}],
    "temperature": 1.2,
}


def test_a_spec_is_read_in_the_order_of_the_columns() -> None:
    assert msgspec.convert(GOOD, HeadSpec) == HeadSpec(
        (DeltaSpec("trust"), DeltaSpec("relationship", -0.5, 0.5)),
        (FlagSpec("give_item", 0.35),),
        1.2,
    )


@pytest.mark.parametrize(
    "changed",
    [
        {"delta": [{"name": "Trust"}]},
        {"delta": [{"name": ""}]},
        {"delta": [{"name": "trust", "min": -2}]},
        {"delta": [{"name": "trust", "cap": 1}]},
        {"delta": [{"name": "trust", "min": 0.5, "max": -0.5}]},
        {"delta": [{"name": "trust"}, {"name": "relationship"}, {"name": "trust"}]},
        {"flags": [{"name": "give item"}]},
        {"flags": [{"name": "x" * 65}]},
        {"flags": [{"name": "give_item", "threshold": 1.1}]},
        {"flags": [{"name": "give_item", "threshold": "high"}]},
        {"flags": [{"name": "give_item"}, {"name": "give_item", "threshold": 0.6}]},
        {"temperature": 0},
        {"extra": 1},
    ],
)
def test_a_spec_that_means_nothing_is_refused(changed: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**GOOD, **changed}, HeadSpec)
