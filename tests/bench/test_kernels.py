"""Which of the counts are held against what a CPU measures."""

import pytest

from bench.kernels import LAYOUTS, TYPES, predicted


def test_no_arm_no_prediction() -> None:
    assert predicted({"AVX2": True}) is None


@pytest.mark.parametrize(
    ("features", "used"),
    [
        ({"NEON"}, []),
        ({"NEON", "FP16_VA", "DOTPROD"}, ["DOTPROD"]),
        ({"NEON", "DOTPROD", "MATMUL_INT8", "SVE"}, ["DOTPROD"]),
    ],
)
def test_the_counts_are_those_of_the_best_kernels_that_run(
    features: set[str], used: list[str]
) -> None:
    counts = predicted(dict.fromkeys(features, True))
    assert counts is not None
    assert counts.features == used


def test_every_weight_type_was_counted_in_every_layout() -> None:
    counts = predicted({"NEON": True, "DOTPROD": True})
    assert counts is not None
    counted = [counts.counted[weights][layout] for weights in TYPES for layout in LAYOUTS]
    assert all(one.prefill > 0 and one.decode > 0 for one in counted)
