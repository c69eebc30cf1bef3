"""What a dataset holds, in numbers: the table of `persona data check` and of docs/data-card.md."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

from rich.box import SIMPLE_HEAD
from rich.table import Table

from train.dataset import TurnLabel
from train.similarity import ngrams, normalised

LONG = 4
"""Turns from which a conversation counts as long."""
OVERLAP_NGRAM = 5
"""Characters: about a Korean word with its ending."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two turns of one NPC with the same words, another state, and `flags` that differ."""

    first: TurnLabel
    second: TurnLabel
    flags: tuple[str, ...]


def find_pairs(turns: Iterable[TurnLabel]) -> list[Pair]:
    """Same words, different state, different flags: what only the state can tell apart.

    Each utterance gives one pair for every set of flags by which two of its turns differ.
    """
    by_words: dict[tuple[str, str], list[TurnLabel]] = defaultdict(list)
    for turn in turns:
        by_words[turn.npc_id, normalised(turn.player_utterance)].append(turn)
    pairs: list[Pair] = []
    for group in by_words.values():
        seen: set[tuple[str, ...]] = set()
        for first, second in combinations(group, 2):
            flags = tuple(name for name in first.flag if first.flag[name] != second.flag[name])
            if flags and flags not in seen:
                pairs.append(Pair(first, second, flags))
                seen.add(flags)
    return pairs


def distinct_2(texts: Iterable[str]) -> float:
    """Distinct word bigrams over all word bigrams (Li et al. 2016, "A Diversity-Promoting …")."""
    bigrams = [pair for text in texts for pair in pairwise(text.casefold().split())]
    return len(set(bigrams)) / max(1, len(bigrams))


def overlap(texts: Iterable[str], others: Iterable[str]) -> float:
    """Share of the distinct character n-grams of `texts` that occur in `others` too."""
    own, theirs = (
        set().union(*(ngrams(text, OVERLAP_NGRAM) for text in group)) for group in (texts, others)
    )
    return len(own & theirs) / max(1, len(own))


def summary_table(splits: Mapping[str, Sequence[TurnLabel]]) -> Table:
    """A row for each measure, NPC and flag, a column for each split (and for all together)."""
    columns = dict(splits)
    if len(splits) > 1:
        columns["all"] = [turn for turns in splits.values() for turn in turns]
    table = Table("", *columns, box=SIMPLE_HEAD)
    for name, measure in _MEASURES.items():
        table.add_row(name, *(measure(turns) for turns in columns.values()))
    table.add_section()
    for npc in sorted({turn.npc_id for turns in splits.values() for turn in turns}):
        table.add_row(npc, *(_turns_of(npc, turns) for turns in columns.values()))
    table.add_section()
    pairs = {name: find_pairs(turns) for name, turns in columns.items()}
    for flag in splits["train"][0].flag:
        cells = (_flag_cell(flag, turns, pairs[name]) for name, turns in columns.items())
        table.add_row(flag, *cells)
    table.caption = (
        "NPCs: turns (Korean). Flags: raised (share), pairs that differ in it, withheld."
    )
    return table


def _count_utterances(turns: Sequence[TurnLabel]) -> str:
    return f"{len({normalised(turn.player_utterance) for turn in turns}):,}"


def _long_conversations(turns: Sequence[TurnLabel]) -> str:
    lengths = Counter(turn.conversation for turn in turns)
    return f"{sum(length >= LONG for length in lengths.values()) / len(lengths):.0%}"


def _share(is_one: Callable[[TurnLabel], bool]) -> Callable[[Sequence[TurnLabel]], str]:
    return lambda turns: f"{sum(map(is_one, turns)) / len(turns):.0%}"


_MEASURES: dict[str, Callable[[Sequence[TurnLabel]], str]] = {
    "turns": lambda turns: f"{len(turns):,}",
    "conversations": lambda turns: str(len({turn.conversation for turn in turns})),
    f"of {LONG} turns or more": _long_conversations,
    "split groups": lambda turns: str(len({turn.split_group for turn in turns})),
    "Korean": _share(lambda turn: turn.lang == "ko"),
    "distinct utterances": _count_utterances,
    "distinct-2, utterances": lambda turns: f"{distinct_2(t.player_utterance for t in turns):.2f}",
    "distinct-2, responses": lambda turns: f"{distinct_2(t.response for t in turns):.2f}",
    "trust falls by 0.3 or more": _share(lambda turn: turn.delta.get("trust", 0) <= -0.3),
    "trust rises by 0.3 or more": _share(lambda turn: turn.delta.get("trust", 0) >= 0.3),
    "turns that withhold": lambda turns: str(sum(bool(t.withheld) for t in turns)),
    "same words, other flags": lambda turns: str(len(find_pairs(turns))),
}


def _turns_of(npc: str, turns: Sequence[TurnLabel]) -> str:
    own = [turn for turn in turns if turn.npc_id == npc]
    korean = sum(turn.lang == "ko" for turn in own) / max(1, len(own))
    return f"{len(own)} ({korean:.0%} ko)"


def _flag_cell(flag: str, turns: Sequence[TurnLabel], pairs: Sequence[Pair]) -> str:
    raised = sum(turn.flag[flag] for turn in turns)
    num_pairs = sum(flag in pair.flags for pair in pairs)
    withheld = sum(flag in turn.withheld for turn in turns)
    return f"{raised} ({raised / len(turns):.1%}), {num_pairs}, {withheld}"
