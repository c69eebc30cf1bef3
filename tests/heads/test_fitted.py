"""Models that were fitted before are read whole, or refused with what is wrong about them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from heads.agreement import AgreementFile, read_agreement
from heads.attacks import Detector, read_detector
from heads.bundle import BundleError
from heads.ngrams import Hashes, ngrams_of_line

LINE = "hello there"
KEYS = ngrams_of_line(LINE, 4)[0]
Read = Callable[[Path], Any]


def raw_keys(keys: Hashes) -> bytes:
    return keys.astype("<u4").tobytes()


def written(path: Path, read: Read, **changes: Any) -> Path:
    """A file of what `read` reads, all of its weights 1, spoilt by `changes`."""
    weights = np.ones((len(KEYS), 2), "<f2")
    file: Detector | AgreementFile
    if read is read_detector:
        raw = weights[:, 0].tobytes()
        file = Detector(keys=raw_keys(KEYS), weights=raw, bias=0, threshold=0.5)
    else:
        raw, halves = weights.tobytes(), (0.5, 0.5)
        file = AgreementFile(keys=raw_keys(KEYS), weights=raw, biases=(0, 0), thresholds=halves)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(file, **changes)))
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    detector = read_detector(written(tmp_path / "attacks.json", read_detector))
    agreement = read_agreement(written(tmp_path / "agreement.json", read_agreement))
    assert agreement.scores(LINE) == pytest.approx((detector.score(LINE),) * 2)
    assert detector.score(LINE) > 0.9


@pytest.mark.parametrize("read", [read_detector, read_agreement])
@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"keys": b"odd"}, "element size"),
        ({"weights": b"odd"}, "element size"),
        ({"keys": raw_keys(KEYS[1:])}, f"each of {len(KEYS) - 1} keys"),
        ({"weights": b"\0" * 6}, "3 weights"),
        ({"keys": raw_keys(KEYS[::-1])}, "not in order"),
        ({"keys": raw_keys(np.full(len(KEYS), 7, np.uint32))}, "not in order"),
        ({"format": 0}, "format 0"),
        ({"training": {"a": float("nan")}, "keys": 1}, "keys"),
    ],
)
def test_parts_that_do_not_fit_each_other_are_refused(
    tmp_path: Path, read: Read, changes: dict[str, Any], found: str
) -> None:
    path = written(tmp_path / "fitted.json", read, **changes)
    with pytest.raises(BundleError, match="run `persona") as caught:
        read(path)
    assert caught.value.file == str(path)
    assert found in caught.value.found


@pytest.mark.parametrize("read", [read_detector, read_agreement])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, read: Read, number: float) -> None:
    num_columns = 1 if read is read_detector else 2
    weights = np.ones(num_columns * len(KEYS), "<f2")
    weights[-1] = number
    with pytest.raises(BundleError, match="not finite"):
        read(written(tmp_path / "fitted.json", read, weights=weights.tobytes()))


@pytest.mark.parametrize("read", [read_detector, read_agreement])
def test_a_file_that_is_missing_or_nested_too_deep_is_refused(tmp_path: Path, read: Read) -> None:
    with pytest.raises(BundleError, match="No such file"):
        read(tmp_path / "none.json")
    path = written(tmp_path / "fitted.json", read)
    nested = "[" * 100_000 + "]" * 100_000
    path.write_text(path.read_text().replace('"training":{}', f'"training":{{"a":{nested}}}'))
    with pytest.raises(BundleError, match="recursion"):
        read(path)
