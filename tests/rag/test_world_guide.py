"""docs/world.md builds an NPC; what it says about it is held against the checker."""

import json
import re
from pathlib import Path

import pytest

from rag.documents import Conditions
from rag.loader import KINDS, WorldError
from rag.world import load_world
from tests.rag.worlds import write_json

GUIDE = (Path(__file__).parents[2] / "docs" / "world.md").read_text(encoding="utf-8")
BLOCKS = [json.loads(text) for text in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)]
(TOLD,) = re.findall(r"```text\n(.*?)```", GUIDE, re.DOTALL)


def test_the_npc_that_the_guide_builds_is_valid(tmp_path: Path) -> None:
    write_json(tmp_path, "npcs/bori.json", [document for block in BLOCKS for document in block])
    (front_matter,) = re.findall(r"```\n(---\n.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "mill.md").write_text(front_matter)
    world = load_world(tmp_path)
    assert {document.__struct_config__.tag for document in world.documents} == KINDS.keys()


def test_the_first_check_says_what_the_guide_says(tmp_path: Path) -> None:
    write_json(tmp_path, "npcs/bori.json", BLOCKS[0])
    with pytest.raises(WorldError) as caught:
        load_world(tmp_path)
    assert TOLD.splitlines() == [str(problem) for problem in caught.value.problems]


def test_the_reference_names_every_key() -> None:
    reference = GUIDE[GUIDE.index("## Reference") :]
    common = {"id", "npc_id", "quest_stage", "location", "comment"}
    for name, kind in KINDS.items():
        (row,) = re.findall(rf"^\| `{name}` \|(.*)\|$", reference, re.MULTILINE)
        missing = {key for key in {*kind.__struct_fields__} - common if f"`{key}" not in row}
        assert not {key for key in missing if key not in row}, name
    for key in Conditions.__struct_fields__:
        assert re.search(rf"^\| `{key}", reference, re.MULTILINE), key
