import json
from pathlib import Path

import msgspec
import pytest

from heads.bundle import HeadsRecord
from heads.spec import HeadSpec
from server.cli import main
from tests.heads.bundles import write_bundle
from tests.train.test_report import META, make_report
from train.dataset import DatasetError
from train.record_figures import record_figures
from train.report_contents import Report

HEADS = {"delta": [{"name": "trust"}], "flags": [{"name": "give_item"}]}
SPEC = msgspec.convert(HEADS, HeadSpec)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "heads.json"
    kept = {"heads": HEADS, "vocabulary_sha256": "0" * 64, "evaluation": {"other": {"x": 1}}}
    path.write_text(json.dumps(kept))
    return path


def test_the_figures_stand_under_their_split_and_the_rest_is_kept(record: Path) -> None:
    record_figures(record, SPEC, make_report())
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


@pytest.mark.parametrize("content", ["{}", '{"training": ' + 2_000 * '{"x":' + "1" + 2_001 * "}"])
def test_a_file_that_is_no_record_is_told_and_left(tmp_path: Path, content: str) -> None:
    path = tmp_path / "heads.json"
    path.write_text(content)
    with pytest.raises(DatasetError, match=r"heads\.json: no record of heads"):
        record_figures(path, SPEC, make_report())
    assert path.read_text() == content


def test_figures_of_other_heads_are_not_noted(record: Path) -> None:
    before = record.read_bytes()
    other = msgspec.convert(HEADS | {"temperature": 2.0}, HeadSpec)
    with pytest.raises(DatasetError, match=r"heads\.json: .*not those of the bundle's heads"):
        record_figures(record, other, make_report())
    assert record.read_bytes() == before


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", change=lambda manifest: manifest.update(heads=HEADS))


def evaluate(bundle: Path, record: Path, *more: str) -> int:
    return main(["evaluate", "bundle", str(bundle), "--record", str(record), *more])


def test_a_record_is_looked_at_before_hours_of_reading(
    bundle: Path, record: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluated(*_: object) -> None:
        raise AssertionError("the bundle was read")

    monkeypatch.setattr("train.evaluate_bundle.evaluate_bundle", evaluated)
    assert evaluate(bundle, record.with_name("heads.jsno")) == 1
    assert "heads.jsno: no record of heads" in capsys.readouterr().err
    record.write_text(record.read_text().replace("give_item", "give_gold"))
    assert evaluate(bundle, record) == 1
    assert "not those of the bundle's heads" in capsys.readouterr().err


def test_the_report_is_there_even_if_the_record_is_gone_when_it_is_done(
    bundle: Path, record: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def evaluated(*_: object) -> Report:
        record.unlink()
        return make_report()

    monkeypatch.setattr("train.evaluate_bundle.evaluate_bundle", evaluated)
    assert evaluate(bundle, record, "--out", str(tmp_path / "report")) == 1
    assert (tmp_path / "report" / "report.json").is_file()
