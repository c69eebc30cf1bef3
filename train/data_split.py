"""Divides labelled turns into training and validation, by groups that must stay together."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from train.dataset import DatasetError, Line
from train.similarity import similar_pairs


def choose_validation(lines: Sequence[Line], share: float) -> set[str]:
    """The split groups of a validation part of about `share` of `lines`.

    Groups with near-duplicate utterances go together. From nothing, whatever brings the counts of
    turns, flags, and NPCs by language closest to `share` of all is added, or taken out again, until
    nothing does. Raises DatasetError unless `share` lies between 0 and 1, and where either part
    would have no turn.
    """
    if not 0 < share < 1:
        raise DatasetError(
            f"a validation part of {share} of the turns; give more than 0, less than 1"
        )
    clusters = _clusters(lines)
    by_group: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        by_group[line.turn.split_group].append(line)
    strata = [
        sum((_strata(line) for group in cluster for line in by_group[group]), Counter())
        for cluster in clusters
    ]
    keys = sorted(set().union(*strata))
    counts = np.array([[stratum[key] for key in keys] for stratum in strata], np.float64)
    target = share * counts.sum(axis=0)
    is_chosen = np.zeros(len(clusters), bool)
    loss = np.inf
    while clusters:
        sign = np.where(is_chosen, -1.0, 1.0)[:, np.newaxis]
        after = counts[is_chosen].sum(axis=0) + sign * counts
        losses = ((after - target) ** 2 / target).sum(axis=1)
        best = int(losses.argmin())
        if losses[best] >= loss:
            break
        loss, is_chosen[best] = losses[best], not is_chosen[best]
    if is_chosen.all() or not is_chosen.any():
        raise DatasetError(
            f"{share} for validation leaves one side nothing of {len(clusters)} group(s) of turns "
            "that stay together; label more groups, or give another share"
        )
    return {group for index in np.flatnonzero(is_chosen) for group in clusters[index]}


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
