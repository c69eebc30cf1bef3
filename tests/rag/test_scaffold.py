from pathlib import Path

import pytest

from rag.loader import WorldError
from rag.scaffold import ScaffoldError, write_npc
from rag.world import load_world
from server.cli import main
from tests.rag.worlds import write_json


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_a_new_npc_is_a_valid_world(
    tmp_path: Path, lang: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world = tmp_path / "world"
    command = ["world", "new", "nari", "--world", str(world), "--lang", lang]
    assert main(command) == 0
    assert main(["world", "check", str(world)]) == 0
    assert "no problem found" in capsys.readouterr().out
    persona = load_world(world).npcs["nari"]
    assert (persona.name, persona.lang) == ({"ko": "Nari", "en": "Nari"}, lang)
    assert [path.name for path in (world / "npcs").iterdir()] == ["nari.json"]


def test_npcs_can_be_added_one_after_the_other(tmp_path: Path) -> None:
    write_npc(tmp_path, "nari", "ko")
    write_npc(tmp_path, "old_ben", "en")
    assert load_world(tmp_path).npcs.keys() == {"nari", "old_ben"}


@pytest.mark.parametrize("npc_id", ["", "Nari", "1st", "a-b", "../evil", "any", "a" * 65, "나리"])
def test_an_id_that_no_document_could_use_is_refused(tmp_path: Path, npc_id: str) -> None:
    with pytest.raises(ScaffoldError, match="is no id"):
        write_npc(tmp_path, npc_id, "ko")
    assert not any(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_npc(tmp_path, "nari", "ko")
    path.write_text("mine")
    assert main(["world", "new", "nari", "--world", str(tmp_path)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_text() == "mine"


def test_an_npc_of_another_file_is_not_doubled(tmp_path: Path) -> None:
    path = write_npc(tmp_path, "nari", "ko")
    path.rename(tmp_path / "all.json")
    with pytest.raises(ScaffoldError, match="has an NPC 'nari' already"):
        write_npc(tmp_path, "nari", "ko")


def test_a_world_with_errors_can_still_get_an_npc(tmp_path: Path) -> None:
    write_json(tmp_path, "bad.json", {"type": "lore"})
    write_npc(tmp_path, "nari", "ko")
    with pytest.raises(WorldError) as caught:
        load_world(tmp_path)
    assert {problem.file for problem in caught.value.problems} == {"bad.json"}
