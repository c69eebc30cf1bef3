from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.calibration import (
    CALIBRATION,
    FIT,
    Calibration,
    Detector,
    HostilityDetector,
    read_calibration,
)
from rag.embedder import USE, EmbedderError

RECORDED: dict[str, Any] = {
    "format": 1,
    "embedder": "grams@1",
    "note": 0.6,
    "same": 0.8,
    "detector": {"weights": [1.0, -2.0, 0.5], "bias": -0.25, "threshold": 0.7},
}


def write(folder: Path, content: object) -> str:
    folder.mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (folder / CALIBRATION).write_bytes(raw)
    return str(folder)


def test_a_calibration_beside_its_encoder_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = read_calibration(write(tmp_path, RECORDED), "grams@1", 3)
    detector = Detector(weights=[1.0, -2.0, 0.5], bias=-0.25, threshold=0.7)
    assert read == Calibration(embedder="grams@1", note=0.6, same=0.8, detector=detector)


def test_an_encoder_may_do_without_a_detector(tmp_path: Path) -> None:
    folder = write(tmp_path, RECORDED | {"detector": None})
    assert read_calibration(folder, "grams@1", 99).detector is None


def test_that_of_the_default_encoder_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path))
    (tmp_path / "encoders").mkdir()
    write(tmp_path / "encoders" / "default", RECORDED)
    assert read_calibration("default", "grams@1", 3).note == 0.6


def test_that_of_the_packaged_encoder_needs_no_file() -> None:
    read = read_calibration(USE, "use-1@abc", 512)
    assert read.embedder == "use-1@abc"
    assert 0 < read.note < read.same < 1
    assert read.detector is None


BROKEN: dict[str, tuple[object, str]] = {
    # what stands in the file, and what must be told of it
    "empty": (b"", "truncated"),
    "no JSON": (b"{note: 1}", "malformed"),
    "no UTF-8": (b'{"format": 1, "embedder": "\xff\xfe"}', "utf-8"),
    "no object": ([1, 2], "got `array`"),
    "a bound left out": ({"format": 1, "embedder": "grams@1", "note": 0.5}, "same"),
    "a bound that no cosine has": (RECORDED | {"note": 1.5}, "note"),
    "a bound that is no number": (RECORDED | {"same": "high"}, "same"),
    "a surplus key": (RECORDED | {"nota": 0.5}, "nota"),
    "weights that are no numbers": (
        RECORDED | {"detector": {"weights": ["a"], "bias": 0, "threshold": 0.5}},
        "weights",
    ),
    "a threshold that is no probability": (
        RECORDED | {"detector": {"weights": [1, 2, 3], "bias": 0, "threshold": 2}},
        "threshold",
    ),
    "a null": (RECORDED | {"embedder": None}, "embedder"),
}


def told(folder: str, embedder_id: str = "grams@1", dim: int = 3) -> EmbedderError:
    """The error that reading gives; its text holds all of its parts."""
    with pytest.raises(EmbedderError) as caught:
        read_calibration(folder, embedder_id, dim)
    error = caught.value
    assert error.file == str(Path(folder) / CALIBRATION)
    assert error.remedy == FIT
    for part in (error.file, error.expected, error.found, error.remedy):
        assert part in str(error)
    return error


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_calibration_is_told_with_what_is_wrong_and_what_mends_it(
    tmp_path: Path, case: str
) -> None:
    content, found = BROKEN[case]
    error = told(write(tmp_path, content))
    assert error.expected == "a calibration of format 1"
    assert found in error.found


@pytest.mark.parametrize("version", [0, 2])
def test_a_calibration_of_another_format_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(EmbedderError, match="expected a calibration of format 1") as caught:
        read_calibration(write(tmp_path, RECORDED | {"format": version}), "grams@1", 3)
    assert str(version) in caught.value.found


@pytest.mark.parametrize("folder", [".", "no such encoder"])
def test_a_missing_calibration_is_told_with_what_mends_it(tmp_path: Path, folder: str) -> None:
    error = told(str(tmp_path / folder))
    assert error.expected == "the encoder's calibration"
    assert error.found == "No such file or directory"


def test_a_folder_in_its_place_is_no_calibration(tmp_path: Path) -> None:
    (tmp_path / CALIBRATION).mkdir()
    assert told(str(tmp_path)).found == "Is a directory"


def test_a_calibration_of_another_encoder_is_refused(tmp_path: Path) -> None:
    error = told(write(tmp_path, RECORDED), embedder_id="grams@2")
    assert (error.expected, error.found) == ("a calibration of grams@2", "grams@1")


def test_a_detector_for_vectors_of_another_width_is_refused(tmp_path: Path) -> None:
    error = told(write(tmp_path, RECORDED), dim=4)
    assert (error.expected, error.found) == ("a detector of 4 weights", "3 weights")


def test_the_score_is_that_of_a_logistic_regression() -> None:
    detector = HostilityDetector(Detector(weights=[2.0, -1.0], bias=0.5, threshold=0.6))
    assert detector.threshold == 0.6
    for vector, logit in (([1.0, 0.0], 2.5), ([0.0, 1.0], -0.5), ([0.6, 0.8], 0.9)):
        score = detector.score(np.array(vector, np.float32))
        assert score == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6))
def test_a_score_is_a_probability_however_large_the_weights(weight: float, bias: float) -> None:
    detector = HostilityDetector(Detector(weights=[weight], bias=bias, threshold=0.5))
    score, logit = detector.score(np.ones(1, np.float32)), weight + bias
    assert 0 <= score <= 1
    if abs(logit) > 1e-6:
        assert (score > 0.5) == (logit > 0)
