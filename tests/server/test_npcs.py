"""What a world tells of its NPCs."""

from pathlib import Path
from typing import Any

import msgspec

from rag.documents import Document
from rag.world import World, load_world
from server.npcs import npc_entries

MINA = {
    "id": "mina",
    "type": "npc_persona",
    "npc_id": "mina",
    "name": {"ko": "미나", "en": "Mina"},
    "persona": "등대지기",
    "style": "존댓말",
    "initial_state": {"trust": 0.2, "relationship": 0.1, "npc_mood": "calm"},
    "stages": ["started"],
    "locations": ["pier"],
}
ROOK = {**MINA, "id": "rook", "npc_id": "rook", "name": "Rook"}
GIVE = {
    "id": "mina.give",
    "type": "flag_def",
    "npc_id": "mina",
    "quest_stage": "started",
    "flag_name": "give_item",
    "value": "pearl",
    "text": {"ko": "진주를 얻었다", "en": "A pearl"},
    "conditions": {
        "required_items": {"mandatory": ["lamp"]},
        "required_actions": {"optional": ["bow"]},
        "required_player_state": {"reputation": ["good", "hero"]},
        "unless": [{"required_npc_state": {"npc_mood": "hostile"}}],
    },
    "examples_positive": ["진주 주세요", "진주요", "The pearl, please", "Pearl?"],
}
LORE = {"id": "rook.oar", "type": "lore", "npc_id": "rook", "content": "노", "items": ["oar"]}


def entries() -> dict[str, dict[str, Any]]:
    world = World(msgspec.convert([MINA, ROOK, GIVE, LORE], list[Document]))
    return {entry["npc_id"]: entry for entry in npc_entries(world)}


def test_an_entry_says_who_the_npc_is_and_how_she_begins() -> None:
    mina = entries()["mina"]
    assert mina["name"] == {"ko": "미나", "en": "Mina"}
    assert mina["about"] == "등대지기"
    assert (mina["lang"], mina["stages"], mina["locations"]) == ("ko", ["started"], ["pier"])
    assert mina["initial_state"] == {"trust": 0.2, "relationship": 0.1, "npc_mood": "calm"}


def test_items_of_the_npc_come_before_those_of_the_others() -> None:
    found = entries()
    assert found["mina"]["items"] == ["lamp", "oar"]
    assert found["rook"]["items"] == ["oar", "lamp"]


def test_what_conditions_and_their_exceptions_ask_for_can_be_chosen() -> None:
    mina = entries()["mina"]
    assert mina["actions"] == ["bow"]
    assert mina["moods"] == ["calm", "hostile"]
    assert mina["reputations"] == ["unknown", "good", "hero"]


def test_flags_come_with_what_they_mean_and_a_line_in_each_language() -> None:
    found = entries()
    assert found["mina"]["flags"] == [
        {
            "name": "give_item",
            "quest_stage": "started",
            "location": "any",
            "value": "pearl",
            "text": {"ko": "진주를 얻었다", "en": "A pearl"},
        }
    ]
    lines = [(line["lang"], line["text"]) for line in found["mina"]["suggestions"]]
    assert lines == [("en", "The pearl, please"), ("ko", "진주 주세요")]
    assert found["rook"]["flags"] == found["rook"]["suggestions"] == []


def test_the_entries_of_the_demo_world_are_json_of_a_modest_size() -> None:
    encoded = msgspec.json.encode(npc_entries(load_world(Path("worlds/mulmaru"))))
    assert len(encoded) < 120_000
