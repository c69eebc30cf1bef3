"""A small world for tests: two NPCs, short enough that a prompt is evaluated in no time."""

from pathlib import Path
from typing import Any

from tests.rag.worlds import write_json

LINES = {"ko": ["바람이 세군요.", "잠깐만요."], "en": ["The wind is up.", "One moment."]}

DOCUMENTS: list[dict[str, Any]] = [
    {
        "id": "mina",
        "type": "npc_persona",
        "npc_id": "mina",
        "name": {"ko": "미나", "en": "Mina"},
        "persona": {"ko": "등대지기", "en": "A keeper of the light"},
        "style": {"ko": "존댓말", "en": "Polite"},
        "initial_state": {"trust": 0.2, "relationship": 0.1, "npc_mood": "calm"},
        "stages": ["started", "over"],
        "locations": ["pier", "tower"],
    },
    {
        "id": "mina-pier",
        "type": "description",
        "npc_id": "mina",
        "location": "pier",
        "content": {"ko": "부두의 밤", "en": "Night at the pier"},
    },
    {
        "id": "mina-fallback",
        "type": "fallback",
        "npc_id": "mina",
        "content": "",
        "fallback_style": {
            "npc_action": {"ko": "등불을 든다", "en": "lifts the lantern"},
            "npc_emotion": "wary",
        },
        "lines": [
            {"ko": korean, "en": english}
            for korean, english in zip(LINES["ko"], LINES["en"], strict=True)
        ],
    },
    *(
        {
            "id": f"mina-{flag}",
            "type": "flag_def",
            "npc_id": "mina",
            "flag_name": flag,
            "value": value,
            "text": {"ko": "얻었다", "en": "Got it"},
        }
        for flag, value in (("give_item", "pearl"), ("npc_main_story", None))
    ),
    {
        "id": "mina-over",
        "type": "flag_def",
        "npc_id": "mina",
        "quest_stage": "started",
        "flag_name": "quest_stage_change",
        "value": "over",
    },
    {
        "id": "rook",
        "type": "npc_persona",
        "npc_id": "rook",
        "name": "Rook",
        "persona": "A ferryman",
        "style": "Terse",
        "lang": "en",
    },
    {"id": "rook-fallback", "type": "fallback", "npc_id": "rook", "lines": ["Not now."]},
]


def write_small_world(folder: Path) -> Path:
    """The world as a folder."""
    write_json(folder, "world.json", DOCUMENTS)
    return folder
