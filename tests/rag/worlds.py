"""Writes worlds for tests."""

import json
from pathlib import Path
from typing import Any

PERSONA: dict[str, Any] = {
    "id": "mina-persona",
    "type": "npc_persona",
    "npc_id": "mina",
    "name": {"ko": "미나", "en": "Mina"},
    "persona": "등대지기",
    "style": "존댓말",
}

FALLBACK: dict[str, Any] = {
    "id": "fallback",
    "type": "fallback",
    "content": {"ko": "바쁘다.", "en": "Busy."},
    "lines": [{"ko": "잠깐만요.", "en": "One moment."}],
}


def write_json(folder: Path, name: str, content: object) -> None:
    """A JSON file of the world `folder`."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
