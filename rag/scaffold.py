"""Writes the documents of a new NPC: small, valid, with a comment wherever a choice is made."""

import re
from pathlib import Path

from rag.documents import ANY, Lang
from rag.loader import WorldError
from rag.world import load_world

TEMPLATE = Path(__file__).with_name("npc_template.json")

_ID = re.compile(r"[a-z][a-z0-9_]{0,63}")


class ScaffoldError(Exception):
    """An NPC cannot be added to a world; the text says why and what to do."""


def write_npc(world: Path, npc_id: str, lang: Lang) -> Path:
    """Write `WORLD/npcs/NPC_ID.json`; its path.

    Raises ScaffoldError where the id is no good or taken, or the file is there already.
    """
    if not _ID.fullmatch(npc_id) or npc_id == ANY:
        raise ScaffoldError(
            f"{npc_id!r} is no id; small letters, digits and _, at most 64, a letter first"
        )
    path = world / "npcs" / f"{npc_id}.json"
    if path.exists():
        raise ScaffoldError(f"{path} is there already; choose another id, or edit that file")
    if npc_id in _known_npcs(world):
        raise ScaffoldError(f"the world has an NPC {npc_id!r} already; choose another id")
    text = TEMPLATE.read_text(encoding="utf-8").replace("NPC_ID", npc_id)
    text = text.replace("NPC_NAME", npc_id.replace("_", " ").title()).replace("NPC_LANG", lang)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)
    return path


def _known_npcs(world: Path) -> set[str]:
    """The NPCs of the world; none where it has errors of its own, which `world check` tells."""
    try:
        return {*load_world(world).npcs}
    except WorldError:
        return set()
