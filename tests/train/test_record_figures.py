import json
from pathlib import Path

import msgspec
import pytest

from heads.bundle import HeadsRecord
from tests.train.test_report import META, make_report
from train.dataset import DatasetError
from train.record_figures import record_figures

HEADS = {"delta": [{"name": "trust"}], "flags": [{"name": "give_item"}]}


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "heads.json"
    kept = {"heads": HEADS, "vocabulary_sha256": "0" * 64, "evaluation": {"other": {"x": 1}}}
    path.write_text(json.dumps(kept))
    return path


def test_the_figures_stand_under_their_split_and_the_rest_is_kept(record: Path) -> None:
    record_figures(record, make_report())
    found = msgspec.json.decode(record.read_bytes(), type=HeadsRecord)
    assert found.evaluation["other"] == {"x": 1}
    figures = found.evaluation[META.split]
    low, high = figures["heads, rebuilt"]["macro_f1"][1:]
    assert low <= figures["heads, rebuilt"]["macro_f1"][0] <= high
    assert figures["voice"]["npc"] == [0.91, 0.88, 0.94]
    assert figures["voice"]["num_changed"] == 321
    assert figures["perplexity"] == pytest.approx(7.39, abs=0.01)
    assert figures["perplexity_untuned"] == pytest.approx(20.09, abs=0.01)
    assert figures["lines"]["num_lines"] == 2


def test_a_file_that_is_no_record_is_told_and_left(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text("{}")
    with pytest.raises(DatasetError, match=r"heads\.json: no record of heads"):
        record_figures(path, make_report())
    assert path.read_text() == "{}"
