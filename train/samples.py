"""Generated lines as they came, for people to read."""

from collections.abc import Sequence

import msgspec

from rag.documents import Lang
from train.dataset import spread
from train.line_figures import GeneratedLine

NUM_SHOWN = 40


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One generated line, what it answers, and the decision before it."""

    npc_id: str
    lang: Lang
    conversation: str
    turn: int
    state: str
    player: str
    decision: str
    """In the words of the prompt; empty where it was left out."""
    line: str
    seed: int


def samples_of(lines: Sequence[GeneratedLine], seed: int) -> list[Sample]:
    """All of `lines`, the first of which was drawn with `seed`, the next with the next."""
    return [
        Sample(
            npc_id=line.turn.npc_id,
            lang=line.turn.lang,
            conversation=line.turn.conversation,
            turn=line.turn.turn,
            state=_state(line),
            player=line.turn.player_utterance,
            decision=line.decision,
            line=line.text.strip(),
            seed=seed + number,
        )
        for number, line in enumerate(lines)
    ]


def _state(line: GeneratedLine) -> str:
    tags = line.turn.tags
    return (
        f"{tags.quest_stage}, {tags.location}, trust {tags.trust:+.2f}, "
        f"relationship {tags.relationship:+.2f}, {tags.npc_mood}"
    )


def as_markdown(samples: Sequence[Sample], title: str) -> str:
    """NUM_SHOWN of them, spread evenly and not picked."""
    shown = spread(list(samples), NUM_SHOWN)
    parts = [f"# {title}\n"]
    parts += [
        f"**{each.npc_id}**, {each.conversation} turn {each.turn} ({each.state}), seed {each.seed}"
        f"\n\n> {each.player}\n\n`{each.decision or 'no decision'}`\n\n{each.line}\n"
        for each in shown
    ]
    return "\n".join(parts)
