"""A valid dataset of the scaffold's NPC `nari`, to be broken in one place at a time."""

import json
from pathlib import Path
from typing import Any

from rag.scaffold import write_npc
from rag.world import World, load_world

FLAGS = ("give_item", "npc_main_story", "quest_stage_change")


def turn(
    conversation: str, number: int, said: str, answered: str, **changes: Any
) -> dict[str, Any]:
    """One line as JSON; `flags` names the raised ones."""
    raised = changes.pop("flags", ())
    tags = {
        "quest_stage": "in_progress",
        "location": "nari_home",
        "trust": 0.2,
        "relationship": 0.0,
        "npc_mood": "shy",
        **changes.pop("tags", {}),
    }
    return {
        "conversation": conversation,
        "turn": number,
        "npc_id": "nari",
        "tags": tags,
        "context": {"player_state": {"items": changes.pop("items", [])}},
        "player_utterance": said,
        "response": answered,
        "delta": {"trust": 0.1, "relationship": 0.05},
        "flag": {name: int(name in raised) for name in FLAGS},
        "lang": "ko",
        "split_group": conversation,
        **changes,
    }


def good_lines() -> dict[str, list[dict[str, Any]]]:
    """Lines by split: a quest from its beginning to its end, a pair, and single turns."""
    after = {"trust": 0.3, "relationship": 0.05}
    told = {"quest_stage": "completed", "trust": 0.4, "relationship": 0.1}
    train = [
        turn(
            "quest",
            0,
            "골무 찾아 드릴게요",
            "아… 정말요? 그럼 부탁드려요.",
            tags={"quest_stage": "not_started"},
            flags=["quest_stage_change"],
        ),
        turn(
            "quest",
            1,
            "골무 여기 있어요",
            "맞아요, 이거예요. 이 단추 받으세요.",
            tags=after,
            items=["silver_thimble"],
            flags=["quest_stage_change", "give_item"],
        ),
        turn(
            "quest",
            2,
            "안에 적힌 이름은요?",
            "그건… 제 언니 이름이에요.",
            tags=told,
            items=["lucky_button"],
            flags=["npc_main_story"],
        ),
        turn(
            "lie",
            0,
            "골무 여기 있어요",
            "손이 비었는데요…",
            delta={"trust": -0.3, "relationship": -0.1},
            split_group="quest",
            withheld=["give_item", "quest_stage_change"],
        ),
        turn("en", 0, "Lovely weather", "It is… a little damp, though.", lang="en"),
    ]
    held_out = {
        "validation": [turn("val", 0, "바늘은 몇 개나 있어요?", "스물… 아니, 하나 부러졌어요.")],
        "test": [turn("test", 0, "뭐 하고 계셨어요", "단을 접고 있었어요.")],
    }
    return {"train": train, **held_out}


def write_dataset(folder: Path, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """`folder`/SPLIT/nari.jsonl for each split."""
    for name, lines in splits.items():
        path = folder / name / "nari.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        path.write_text(text, encoding="utf-8")
    return folder


def nari_world(folder: Path) -> World:
    """The scaffold's world."""
    write_npc(folder, "nari", "ko")
    return load_world(folder)
