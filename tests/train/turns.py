"""Labelled turns for tests."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from rag.documents import Description, FlagDef, NpcPersona
from rag.world import World
from train.dataset import TurnLabel

WORLD = World(
    [
        NpcPersona(id="p", npc_id="mina", name="Mina", persona="등대지기", style="terse"),
        Description(id="d", npc_id="mina", content="밤이다.", instructions="Whisper."),
        FlagDef(id="f", npc_id="mina", flag_name="give_item", value="gold", text="…"),
    ]
)


def line(number: int = 0, **changes: Any) -> dict[str, Any]:
    """One line of a dataset, as JSON."""
    tags = {
        "quest_stage": "started",
        "location": "pier",
        "trust": 0.1 * (number % 7),
        "relationship": 0.0,
        "npc_mood": "calm",
    }
    return {
        "conversation": "c",
        "turn": number,
        "npc_id": "mina",
        "tags": tags,
        "player_utterance": f"hello {number}",
        "response": f"thank you {number}",
        "delta": {"trust": 0.1, "relationship": 0.0},
        "flag": {"give_item": number % 2, "quest_stage_change": 0},
        "lang": "en",
        "split_group": "g",
        **changes,
    }


def label(number: int = 0, **changes: Any) -> TurnLabel:
    """One labelled turn."""
    return msgspec.convert(line(number, **changes), TurnLabel)


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """A JSONL file."""
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in lines))
    return path
