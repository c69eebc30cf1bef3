"""`persona world search`: what is told of what is found."""

import os
from pathlib import Path

import pytest

from rag.calibration import Calibration
from server.cli import main
from tests.rag.fake_embedder import GramEmbedder
from tests.rag.worlds import FALLBACK, PERSONA, write_json

SAID = "Who rang the bell?"


@pytest.fixture(autouse=True)
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in which notes of every scope have the same words."""
    mina = {"npc_id": "mina", "content": SAID}
    turn = {"type": "dialogue_turn", "npc_id": "mina", "player": SAID, "npc": "The wind."}
    change = {"type": "flag_def", "npc_id": "mina", "flag_name": "quest_stage_change"}
    documents = [
        {**PERSONA, "stages": ["started", "over"], "locations": ["pier", "tower"]},
        FALLBACK,
        {**change, "id": "end", "quest_stage": "started", "value": "over"},
        {**mina, "type": "description", "id": "scene"},
        {**mina, "type": "lore", "id": "always"},
        {**mina, "type": "lore", "id": "far", "content": "염전의 소금은 희다."},
        {**mina, "type": "lore", "id": "late", "quest_stage": "over"},
        {**turn, "id": "above", "location": "tower", "lang": "en"},
        {**turn, "id": "korean", "lang": "ko"},
    ]
    write_json(tmp_path / "world", "world.json", documents)
    embedder = GramEmbedder()
    calibration = Calibration(embedder=embedder.id, note=0.5, same=0.9)
    monkeypatch.setattr("rag.cli.open_embedder", lambda _: embedder)
    monkeypatch.setattr("rag.cli.read_calibration", lambda *_: calibration)
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return str(tmp_path / "world")


def told(out: str) -> dict[str, str]:
    """What stands beside each document that was found."""
    rows = [row.split("│") for row in out.splitlines() if row.startswith("│")]
    return {row[1].strip(): row[5].strip() for row in rows}


def test_what_a_turn_is_never_told_is_marked(
    world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["world", "search", world, SAID, "--npc", "mina", "--limit", "9"]
    assert main(search) == 0
    begins = {
        "scene": "not told: picked by scene",
        "always": "yes",
        "far": "not told: too far",
        "late": "not told: another stage",
        "above": "not told: another place",
        "korean": "not told: another language",
    }
    out = capsys.readouterr().out
    assert told(out) == begins
    assert "at stage 'started', place 'pier', in 'en'" in out
    assert main([*search, "--stage", "over", "--location", "tower", "--lang", "ko"]) == 0
    assert told(capsys.readouterr().out) == {
        **begins,
        "late": "yes",
        "above": "not told: another language",
        "korean": "yes",
    }


def test_over_the_whole_world_each_note_is_where_it_belongs(
    world: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["world", "search", world, SAID, "--limit", "9"]) == 0
    assert told(capsys.readouterr().out) == {
        **dict.fromkeys(("always", "late", "above", "korean"), "yes"),
        "scene": "not told: picked by scene",
        "far": "not told: too far",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--npc", "rook"), "no NPC 'rook'; known are mina"),
        (("--npc", "mina", "--stage", "ovr"), "no stage 'ovr'; known are started, over"),
        (("--npc", "mina", "--location", "peir"), "no place 'peir'; known are pier, tower"),
        (("--lang", "ko"), "need --npc"),
    ],
)
def test_a_scene_that_the_world_lacks_is_told_in_a_line(
    world: str, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], words: str
) -> None:
    assert main(["world", "search", world, SAID, *options]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((os.fsdecode("방".encode("cp949")),), "not UTF-8"),
        ((SAID, "--npc", os.fsdecode(b"\xff")), "not UTF-8"),
        *(((SAID, f"--limit={limit}"), f"'{limit}' is no number above 0") for limit in ("-1", "0")),
    ],
)
def test_what_cannot_be_searched_for_is_told(
    world: str, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    with pytest.raises(SystemExit):
        main(["world", "search", world, *arguments])
    assert words in capsys.readouterr().err
