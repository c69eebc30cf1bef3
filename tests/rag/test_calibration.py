from pathlib import Path
from typing import Any

import msgspec
import pytest

from rag.calibration import (
    CALIBRATION,
    FIT,
    Calibration,
    read_calibration,
)
from rag.embedder import USE, EmbedderError

RECORDED: dict[str, Any] = {
    "format": 1,
    "embedder": "grams@1",
    "note": 0.6,
    "same": 0.8,
}


def write(folder: Path, content: object) -> str:
    folder.mkdir(exist_ok=True)
    raw = content if isinstance(content, bytes) else msgspec.json.encode(content)
    (folder / CALIBRATION).write_bytes(raw)
    return str(folder)


def test_a_calibration_beside_its_encoder_is_read_as_it_was_written(tmp_path: Path) -> None:
    read = read_calibration(write(tmp_path, RECORDED), "grams@1")
    assert read == Calibration(embedder="grams@1", note=0.6, same=0.8)


def test_that_of_the_default_encoder_lies_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path))
    (tmp_path / "encoders").mkdir()
    write(tmp_path / "encoders" / "default", RECORDED)
    assert read_calibration("default", "grams@1").note == 0.6


def test_that_of_the_packaged_encoder_needs_no_file() -> None:
    read = read_calibration(USE, "use-1@abc")
    assert read.embedder == "use-1@abc"
    assert 0 < read.note < read.same < 1


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
    "a null": (RECORDED | {"embedder": None}, "embedder"),
}


def told(folder: str, embedder_id: str = "grams@1") -> EmbedderError:
    """The error that reading gives; its text holds all of its parts."""
    with pytest.raises(EmbedderError) as caught:
        read_calibration(folder, embedder_id)
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
    assert found in error.found.lower()


@pytest.mark.parametrize("version", [0, 2])
def test_a_calibration_of_another_format_is_refused(tmp_path: Path, version: int) -> None:
    with pytest.raises(EmbedderError, match="expected a calibration of format 1") as caught:
        read_calibration(write(tmp_path, RECORDED | {"format": version}), "grams@1")
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
