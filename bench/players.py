"""What players say in benchmarks: the labelled turns of a dataset's validation split."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from random import Random

from runtime.llama_backend import LlamaModel
from train.dataset import DatasetError, TurnLabel, conversations, read_turns

DATA = Path("worlds/mulmaru/data/validation")


def read_players(folder: Path) -> list[TurnLabel]:
    """The turns of all JSONL files in `folder`. Raises DatasetError."""
    if paths := sorted(folder.glob("*.jsonl")):
        return read_turns(paths)
    raise DatasetError(f"{folder}: no *.jsonl; name the folder of a dataset's split with --data")


def conversations_of(turns: Sequence[TurnLabel], seed: int) -> Iterator[list[TurnLabel]]:
    """Conversations in an order that `seed` draws, over and over."""
    shuffled = list(conversations(turns).values())
    Random(seed).shuffle(shuffled)
    return cycle(shuffled)


def by_voice(turns: Sequence[TurnLabel]) -> list[list[TurnLabel]]:
    """What is said to each NPC in each language."""
    found: dict[tuple[str, str], list[TurnLabel]] = {}
    for turn in turns:
        found.setdefault((turn.npc_id, turn.lang), []).append(turn)
    return list(found.values())


def long_conversations(
    turns: Sequence[TurnLabel], num_turns: int, seed: int
) -> Iterator[list[TurnLabel]]:
    """Conversations of `num_turns`, over and over: short ones with one NPC, one after another."""
    found = [
        [*islice(cycle(lines), at, at + num_turns)]
        for lines in by_voice(turns)
        for at in range(0, len(lines), num_turns)
    ]
    Random(seed).shuffle(found)
    return cycle(found)


def make_prompts(
    model: LlamaModel, turns: Sequence[TurnLabel], count: int, num_tokens: int
) -> list[list[int]]:
    """`count` different prompts of `num_tokens` each, of what is said in `turns`."""
    start = [] if model.bos is None else [model.bos]
    length = num_tokens - len(start)
    said: list[int] = []
    texts = cycle([text for turn in turns for text in (turn.player_utterance, turn.response)])
    while len(said) < count * length:
        said += model.tokenize(next(texts) + "\n")
    return [[*start, *said[at * length : (at + 1) * length]] for at in range(count)]
