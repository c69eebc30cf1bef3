"""The dataset: a folder for each split, one JSONL line per turn (see docs/labelling.md)."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

from heads.bundle import file_sha256
from heads.spec import Unit
from rag.conditions import UNKNOWN_REPUTATION, Facts
from rag.documents import Lang
from rag.loader import Problem
from rag.schema_errors import locate
from rag.scopes import Scene
from rag.world import World

T = TypeVar("T")
Named = Annotated[str, msgspec.Meta(min_length=1)]

SPLITS = ("train", "validation", "test")
DRILLS = "drills"
"""Single turns that practise what conversations seldom hold; `train` alone must be balanced."""
LEARNED = ("train", DRILLS)
"""The folders whose turns are trained on."""
_PARTS = (*SPLITS, DRILLS)
CLEAR = 0.1
"""A delta nearer to 0 than this has no sign to get right."""


class Tags(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The state of the game and of the NPC as the turn begins."""

    quest_stage: str
    location: str
    trust: Unit
    relationship: Unit
    npc_mood: str
    player_reputation: str = UNKNOWN_REPUTATION
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

    conversation: Named
    turn: Annotated[int, msgspec.Meta(ge=0)]
    npc_id: Named
    tags: Tags
    context: Context = Context()
    player_utterance: str
    response: str
    delta: dict[str, Unit]
    flag: dict[str, Literal[0, 1]]
    withheld: list[str] = []
    """Flags whose event the player asked for and the state does not allow: 0 in `flag`."""
    lang: Lang
    split_group: Named

    def __post_init__(self) -> None:
        for name in ("player_utterance", "response"):
            if not getattr(self, name).strip():
                raise ValueError(f"`{name}` is blank")

    @property
    def facts(self) -> Facts:
        """What the world's conditions are held against."""
        tags, player = self.tags, self.context.player_state
        position = {} if player.position is None else {"position": player.position}
        return Facts(
            scene=Scene(self.npc_id, tags.quest_stage, tags.location),
            utterance=self.player_utterance,
            items=player.items,
            actions=player.actions,
            npc_state={
                "trust": tags.trust,
                "relationship": tags.relationship,
                "npc_mood": tags.npc_mood,
            },
            player_state={"reputation": tags.player_reputation, **position},
        )


class DatasetError(Exception):
    """A dataset cannot be used; the text says why."""


class DatasetProblems(DatasetError):
    """Lines of a dataset are wrong; `problems` lists all."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = list(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"the dataset has {len(self.problems)} problem(s):\n{lines}")


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled turn and where it stands."""

    path: Path
    number: int
    turn: TurnLabel

    def problem(self, key: str, what: str, remedy: str) -> Problem:
        """A problem of this line."""
        return Problem(str(self.path), f"line {self.number}", key, what, remedy)


def dataset_files(folder: Path) -> list[Path]:
    """The JSONL files of a dataset, split by split. Raises DatasetError if none is for training."""
    files = [path for name in _PARTS for path in sorted((folder / name).glob("*.jsonl"))]
    if not any(path.parent.name == "train" for path in files):
        raise DatasetError(
            f"{folder}: no train/*.jsonl; a dataset is a folder with {', '.join(SPLITS)} in it"
        )
    return files


def dataset_sha256(folder: Path, parts: Sequence[str] = _PARTS) -> str:
    """Hex SHA-256 of the files in these folders of a dataset. Raises as `dataset_files`."""
    files = [path for path in dataset_files(folder) if path.parent.name in parts]
    return hashlib.sha256("\n".join(map(file_sha256, files)).encode()).hexdigest()


def read_splits(folder: Path) -> tuple[dict[str, list[Line]], list[Problem]]:
    """The lines of each split and drill that there is, and every problem met on the way.

    Raises DatasetError if there is none for training.
    """
    lines, problems = read_lines(dataset_files(folder))
    by_split: dict[str, list[Line]] = {name: [] for name in _PARTS}
    for line in lines:
        by_split[line.path.parent.name].append(line)
    return {name: found for name, found in by_split.items() if found}, problems


def read_dataset(folder: Path, needed: Iterable[str] = ()) -> dict[str, list[TurnLabel]]:
    """The turns of each split that there is, drills among those to train on.

    Raises DatasetError, also where a split that is `needed` has none.
    """
    splits, problems = read_splits(folder)
    if problems:
        raise DatasetProblems(problems)
    if learned := learned_from(splits):
        splits["train"] = learned
    if missing := [name for name in SPLITS if name in needed and name not in splits]:
        raise DatasetError(
            f"{folder}: no {' and no '.join(missing)} split, which this needs; "
            f"put labelled turns into {' and '.join(f'{name}/' for name in missing)}"
        )
    return {name: [line.turn for line in splits[name]] for name in SPLITS if name in splits}


def learned_from(splits: Mapping[str, Sequence[Line]]) -> list[Line]:
    """The lines to train on, drills among them."""
    return [line for name in LEARNED for line in splits.get(name, ())]


def check_npcs(splits: Mapping[str, Sequence[TurnLabel]], world: World) -> None:
    """Raises DatasetError if a turn is of an NPC that the world has not."""
    named = {turn.npc_id for part in splits.values() for turn in part}
    if unknown := sorted(named - world.npcs.keys()):
        raise DatasetError(f"the world has no NPC {', '.join(unknown)}, which the dataset labels")


def read_turns(paths: Sequence[Path]) -> list[TurnLabel]:
    """All turns of the JSONL files `paths`.

    Raises DatasetError where a line does not fit the schema, has other deltas or flags than the
    first, or labels a turn again, and if there is no line at all.
    """
    lines, problems = read_lines(paths)
    if problems:
        raise DatasetProblems(problems)
    return [line.turn for line in lines]


def read_lines(paths: Sequence[Path]) -> tuple[list[Line], list[Problem]]:
    """The lines of `paths` that fit the schema, in order, and every problem met on the way."""
    decoder = msgspec.json.Decoder(TurnLabel)
    lines: list[Line] = []
    problems: list[Problem] = []
    for path in paths:
        for number, raw in enumerate(path.read_bytes().splitlines(), start=1):
            if not raw.strip():
                continue
            try:
                lines.append(Line(path, number, decoder.decode(raw)))
            except msgspec.ValidationError as error:
                where, what = locate(error)
                remedy = "docs/labelling.md shows a line"
                problems.append(Problem(str(path), f"line {number}", where, what, remedy))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                what, remedy = f"not valid JSON: {error}", "one JSON object a line, in UTF-8"
                problems.append(Problem(str(path), f"line {number}", "-", what, remedy))
    if not lines and not problems:
        where = ", ".join(map(str, paths))
        problems.append(Problem(where, "-", "-", "no labelled turn", "label some"))
    problems += [*_labelled_otherwise(lines), *_labelled_twice(lines)]
    return [_in_order(line, lines[0].turn) for line in lines], problems


def _in_order(line: Line, first: TurnLabel) -> Line:
    """A line with its deltas and flags in the order that the first line has them."""
    turn = line.turn
    if turn.delta.keys() == first.delta.keys() and turn.flag.keys() == first.flag.keys():
        delta = {name: turn.delta[name] for name in first.delta}
        flag = {name: turn.flag[name] for name in first.flag}
        return replace(line, turn=msgspec.structs.replace(turn, delta=delta, flag=flag))
    return line


def _labelled_otherwise(lines: Sequence[Line]) -> Iterator[Problem]:
    for line in lines:
        for key in ("delta", "flag"):
            found, expected = (sorted(getattr(each.turn, key)) for each in (line, lines[0]))
            if found != expected:
                what = f"labels {', '.join(found)}, but the first line {', '.join(expected)}"
                yield line.problem(key, what, "every line labels the same names")


def _labelled_twice(lines: Sequence[Line]) -> Iterator[Problem]:
    seen: set[tuple[str, int]] = set()
    for line in lines:
        place = line.turn.conversation, line.turn.turn
        if place in seen:
            what = f"turn {place[1]} of conversation {place[0]!r} is labelled twice"
            yield line.problem("turn", what, "give the conversation another name, or remove it")
        seen.add(place)


def spread(items: Sequence[T], count: int) -> list[T]:
    """`count` of `items` from all along it; all if there are fewer."""
    count = min(count, len(items))
    return [items[at * len(items) // count] for at in range(count)]


def conversations(turns: Iterable[TurnLabel]) -> dict[str, list[TurnLabel]]:
    """Turns by conversation, each in order."""
    grouped: dict[str, list[TurnLabel]] = defaultdict(list)
    for turn in turns:
        grouped[turn.conversation].append(turn)
    return {name: sorted(group, key=lambda turn: turn.turn) for name, group in grouped.items()}
