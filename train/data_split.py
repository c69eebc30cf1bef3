"""Divides labelled turns into training and validation, by groups that must stay together."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from train.dataset import Line
from train.similarity import similar_pairs

_TRIALS = 400


def choose_validation(lines: Sequence[Line], share: float, seed: int = 0) -> set[str]:
    """The split groups of a validation part of about `share` of `lines`.

    Groups with near-duplicate utterances go together. Of many random choices the one is taken
    whose counts of flags, and of NPCs by language, come closest to `share` of all.
    """
    clusters = _clusters(lines)
    by_group: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_group[line.turn.split_group].append(line)
    strata = [
        sum((_strata(line) for group in cluster for line in by_group[group]), Counter())
        for cluster in clusters
    ]
    total = sum(strata, Counter())
    target = {key: share * count for key, count in total.items()}
    rng = np.random.default_rng(seed)
    best: tuple[float, set[str]] = (float("inf"), set())
    for _ in range(_TRIALS):
        chosen, counts = [], Counter[str]()
        for index in map(int, rng.permutation(len(clusters))):
            if counts["turns"] + strata[index]["turns"] <= target["turns"]:
                chosen.append(index)
                counts += strata[index]
        loss = sum((counts[key] - want) ** 2 / want for key, want in target.items())
        if loss < best[0]:
            best = loss, {group for index in chosen for group in clusters[index]}
    return best[1]


def _strata(line: Line) -> Counter[str]:
    turn = line.turn
    flags = {f"flag {name}": value for name, value in turn.flag.items() if value}
    return Counter({"turns": 1, f"npc {turn.npc_id} {turn.lang}": 1, **flags})


def _clusters(lines: Sequence[Line]) -> list[list[str]]:
    """Groups joined where utterances of two are near-duplicates."""
    parent = {line.turn.split_group: line.turn.split_group for line in lines}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    for line, other in similar_pairs(lines):
        parent[root(line.turn.split_group)] = root(other.turn.split_group)
    joined: dict[str, list[str]] = defaultdict(list)
    for group in sorted(parent):
        joined[root(group)].append(group)
    return list(joined.values())
