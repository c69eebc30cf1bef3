import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from heads.attacks import AttackDetector, Detector
from server.cli import main
from tests.train.turns import line, write_lines


def lines(attack: str, harmless: str, count: int) -> list[dict[str, Any]]:
    return [
        {"text": f"{text} {number}", "lang": "en", "hostile": hostile, "kind": "plain"}
        for number in range(count)
        for text, hostile in ((attack, True), (harmless, False))
    ]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "triggers").mkdir()
    for name, attack, harmless, count in (
        ("train", "I will burn your boat", "the soup is hot", 12),
        ("pairs", "you will drown tonight", "we sail tonight", 12),
        ("validation", "burn and drown", "sail and soup", 4),
    ):
        write_lines(tmp_path / "triggers" / f"{name}.jsonl", lines(attack, harmless, count))
    for split in ("train", "validation"):
        (tmp_path / "data" / split).mkdir(parents=True)
        names = [f"{split} {number}" for number in range(9)]
        said = [line(0, conversation=name, player_utterance=f"well met {name}") for name in names]
        write_lines(tmp_path / "data" / split / "turns.jsonl", said)
    return tmp_path


def test_ngrams_learn_from_lines_pairs_and_ordinary_remarks(world: Path, tmp_path: Path) -> None:
    out = tmp_path / "attacks.json"
    assert main(["triggers", "fit", str(world), "--out", str(out)]) == 0
    found = msgspec.json.decode(out.read_bytes(), type=Detector)
    assert found.training["num_lines"] == 24 + 24 + 9
    assert found.evaluation["validation"]["ordinary"] == {"num_lines": 9, "fired": 0}
    detector = AttackDetector(found)
    for text, is_attack in (("burn", True), ("drown", True), ("soup", False), ("well met", False)):
        assert (detector.logit(text) > detector.logit("zzz")) == is_attack, text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("pairs", None, "No such file"),
        ("train", '{"text": "a"', "truncated"),
        ("validation", json.dumps(lines("a", "b", 1)[0]), "some must be attacks and some harmless"),
    ],
)
def test_lines_that_cannot_be_used_are_told(
    world: Path,
    name: str,
    content: str | None,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = world / "triggers" / f"{name}.jsonl", world / "out.json"
    path.unlink() if content is None else path.write_text(content)
    assert main(["triggers", "fit", str(world), "--out", str(out)]) != 0
    told = capsys.readouterr().err
    assert said in told
    assert str(path) in told
    assert not out.exists()
