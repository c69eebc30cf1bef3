"""The dataset: one JSONL line per turn (docs/labelling.md says what the labels mean)."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from heads.spec import Unit


class Tags(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of the game and of the NPC as the turn begins."""

    quest_stage: str
    location: str
    trust: Unit
    relationship: Unit
    npc_mood: str
    player_reputation: str = "unknown"
    style: str = ""


class PlayerState(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the player carries and has just done."""

    items: list[str] = []
    actions: list[str] = []
    position: str | None = None


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """State that is not a tag."""

    player_state: PlayerState = PlayerState()


class TurnLabel(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One labelled turn."""

    conversation: Annotated[str, msgspec.Meta(min_length=1)]
    turn: Annotated[int, msgspec.Meta(ge=0)]
    npc_id: Annotated[str, msgspec.Meta(min_length=1)]
    tags: Tags
    context: Context = Context()
    player_utterance: Annotated[str, msgspec.Meta(min_length=1)]
    response: Annotated[str, msgspec.Meta(min_length=1)]
    delta: dict[str, Unit]
    flag: dict[str, Literal[0, 1]]
    lang: Literal["ko", "en"]
    split_group: Annotated[str, msgspec.Meta(min_length=1)]


class DatasetError(Exception):
    """A dataset or a line of it cannot be used; the text names file, line and key."""


def read_turns(paths: Sequence[Path]) -> list[TurnLabel]:
    """All turns of the JSONL files `paths`.

    Raises DatasetError at the first line that does not fit the schema, has other deltas or flags
    than the first, or labels a turn again, and if there is no line at all.
    """
    decoder = msgspec.json.Decoder(TurnLabel)
    turns: list[TurnLabel] = []
    seen: set[tuple[str, int]] = set()
    for path in paths:
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            if not line.strip():
                continue
            try:
                turn = decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise DatasetError(f"{path}, line {number}: {error}") from error
            if (place := (turn.conversation, turn.turn)) in seen:
                what = f"turn {turn.turn} of conversation {turn.conversation!r} is labelled twice"
                raise DatasetError(f"{path}, line {number}: {what}")
            seen.add(place)
            turns.append(turn)
            if (found := _names(turn)) != (expected := _names(turns[0])):
                what = f"labels {found}, but the first line labels {expected}"
                raise DatasetError(f"{path}, line {number}: {what}")
    if not turns:
        raise DatasetError(f"{', '.join(map(str, paths))}: no labelled turn")
    return turns


def _names(turn: TurnLabel) -> list[str]:
    return [*sorted(turn.delta), *sorted(turn.flag)]


def conversations(turns: Iterable[TurnLabel]) -> dict[str, list[TurnLabel]]:
    """Turns by conversation, each in order."""
    grouped: dict[str, list[TurnLabel]] = defaultdict(list)
    for turn in turns:
        grouped[turn.conversation].append(turn)
    return {name: sorted(group, key=lambda turn: turn.turn) for name, group in grouped.items()}
