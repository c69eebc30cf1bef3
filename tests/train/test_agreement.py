"""Lines held against decisions."""

from pathlib import Path

import msgspec
import pytest

from heads.agreement import FORMAT, Agreement, AgreementFile, read_agreement
from heads.bundle import AGREEMENT, BundleError
from server.cli import main
from tests.train.responses import CALM, GRANTED, REFUSED
from tests.train.responses import responses_of_each_kind as turns
from tests.train.turns import line, write_lines
from train.dataset import DatasetError
from train.fit_agreement import fit_agreement, split_sentences


@pytest.fixture(scope="module")
def file() -> AgreementFile:
    fitted = fit_agreement(turns(), turns())
    return msgspec.structs.replace(fitted, thresholds=(0.5, 0.5))


def test_a_line_contradicts_if_it_refuses_what_is_raised_or_grants_what_is_not(
    file: AgreementFile,
) -> None:
    agreement = Agreement(file)
    found = agreement.contradiction("No, never.", is_raised=True)
    assert found
    assert found.startswith("refuses (0.")
    assert agreement.contradiction("No, never.", is_raised=False) is None
    found = agreement.contradiction("Here, take it.", is_raised=False)
    assert found
    assert found.startswith("grants (0.")
    assert agreement.contradiction("Here, take it.", is_raised=True) is None
    for text in ("The sea is quiet.", "", "   ", "어느 쪽도 아니다"):
        assert agreement.contradiction(text, is_raised=True) is None
        assert agreement.contradiction(text, is_raised=False) is None


def test_thresholds_leave_what_agrees_alone() -> None:
    agreement = Agreement(fit_agreement(turns(), turns()))
    kinds = [(GRANTED, True), (REFUSED, False), (CALM, False)]
    told = [
        agreement.contradiction(text, is_raised=is_raised)
        for texts, is_raised in kinds
        for text in texts
    ]
    assert told.count(None) >= 5, "at most the share that may be wrong"


def test_it_is_read_from_its_file_and_another_file_is_refused(
    file: AgreementFile, tmp_path: Path
) -> None:
    path = tmp_path / AGREEMENT
    path.write_bytes(msgspec.json.encode(file))
    text = "Not yet, friend."
    assert read_agreement(path).scores(text) == Agreement(file).scores(text)
    for content in (
        b"{}",
        b"\xff",
        msgspec.json.encode(msgspec.structs.replace(file, format=FORMAT + 1)),
    ):
        path.write_bytes(content)
        with pytest.raises(BundleError, match="persona heads agreement"):
            read_agreement(path)
    with pytest.raises(BundleError):
        read_agreement(tmp_path / "none")


def test_too_few_turns_have_nothing_in_common_to_learn() -> None:
    granted, refused = turns()[0], turns()[20]
    said = {"응": granted, "x": refused}
    few = [msgspec.structs.replace(turn, response=text) for text, turn in said.items()]
    with pytest.raises(DatasetError, match="too little in common"):
        fit_agreement(few, turns())
    both = [msgspec.structs.replace(granted, withheld=["give_item"])]
    with pytest.raises(DatasetError, match="raises a flag"):
        fit_agreement(both, turns())


def test_without_validation_there_are_no_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "train").mkdir()
    write_lines(tmp_path / "train" / "mina.jsonl", [line(0)])
    fit = ["heads", "agreement", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(fit) == 1
    assert "no validation split" in capsys.readouterr().err


def test_without_both_kinds_there_is_nothing_to_learn() -> None:
    with pytest.raises(DatasetError, match="withholds one"):
        fit_agreement([turn for turn in turns() if not turn.withheld], turns())


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Aye. Take it! 응?", ["Aye.", " Take it!", " 응?"]),
        ("no end", ["no end"]),
        ("", []),
    ],
)
def test_sentences_are_those_of_serving(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
