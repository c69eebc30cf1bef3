"""How alike texts are: character n-grams, for near-duplicates between splits."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import ceil

from train.dataset import Line

NGRAM = 3
THRESHOLD = 0.6


def normalised(text: str) -> str:
    """`text` case folded, white space runs as one: two that are the same words are equal."""
    return " ".join(text.casefold().split())


def ngrams(text: str, size: int = NGRAM) -> frozenset[str]:
    """Character n-grams of the normalised `text`, edges marked."""
    padded = f" {normalised(text)} "
    return frozenset(padded[i : i + size] for i in range(max(1, len(padded) - size + 1)))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Size of the intersection over that of the union, in [0, 1]."""
    return len(a & b) / len(a | b)


def near_duplicates(
    lines: Sequence[Line], others: Sequence[Line]
) -> list[tuple[Line, Line, float]]:
    """For each line whose utterance is close to one of `others`: that one, and how close."""
    best: dict[int, tuple[Line, Line, float]] = {}
    for line, other, value in _close(lines, others):
        if id(line) not in best or value > best[id(line)][2]:
            best[id(line)] = line, other, value
    return list(best.values())


def similar_pairs(lines: Sequence[Line]) -> list[tuple[Line, Line]]:
    """All pairs of lines, from different split groups, whose utterances are close."""
    return [
        (line, other)
        for line, other, _ in _close(lines, lines)
        if line.turn.split_group < other.turn.split_group
    ]


def _close(lines: Sequence[Line], others: Sequence[Line]) -> Iterator[tuple[Line, Line, float]]:
    by_size: dict[int, list[tuple[Line, frozenset[str]]]] = defaultdict(list)
    for other in others:
        grams = ngrams(other.turn.player_utterance)
        by_size[len(grams)].append((other, grams))
    for line in lines:
        own = ngrams(line.turn.player_utterance)
        # The Jaccard index is at most the ratio of the sizes.
        for size in range(ceil(THRESHOLD * len(own)), int(len(own) / THRESHOLD) + 1):
            for other, theirs in by_size.get(size, ()):
                if (value := jaccard(own, theirs)) >= THRESHOLD:
                    yield line, other, value
