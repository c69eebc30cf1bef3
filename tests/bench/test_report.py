"""Ratios of paired runs."""

import json
from pathlib import Path

import pytest

from bench.report import check_range, ratio_of, write_report


def test_a_ratio_is_that_of_runs_side_by_side_however_the_machine_drifts() -> None:
    drift = [1.0, 2.0, 5.0, 1.5, 3.0]
    found = ratio_of([2 * t for t in drift], drift)
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


def test_the_interval_holds_the_median_and_widens_with_noise() -> None:
    others = [1.0] * 7
    calm, noisy = (
        ratio_of([1.0, 1.01, 0.99] * 2 + [1.0], others),
        ratio_of([1, 3, 2, 5, 4, 9, 7], others),
    )
    assert calm.low <= calm.median <= calm.high
    assert noisy.high - noisy.low > calm.high - calm.low


def test_a_report_says_where_it_was_measured(tmp_path: Path) -> None:
    write_report(tmp_path / "a.json", "engine", {"runs": 5}, [1.5])
    found = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert found["bench"] == "engine"
    assert found["figures"] == [1.5]
    assert found["machine"]["num_cores"] >= 1
    assert "llama-cpp-python" in found["versions"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "--runs is 0; it must be from 0.5 to 1000000"),
        (0.0, "--runs is 0; it must be from 0.5 to 1000000"),
        (12_345_678, "--runs is 12345678; it must be from 0.5 to 1000000"),
    ],
)
def test_a_number_out_of_range_is_quoted_as_it_was_typed(value: float, said: str) -> None:
    with pytest.raises(ValueError, match=f"^{said}$"):
        check_range("--runs", value, 0.5, 1_000_000)
    check_range("--runs", 0.5, 0.5, 1_000_000)
