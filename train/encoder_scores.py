"""How well an encoder finds documents and attacks: figures on labelled texts."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rag.documents import ANY, DialogueTurn, Lore
from rag.index import Match
from rag.retriever import Retriever, note_ids
from rag.scopes import Scene
from rag.searchable import Note
from rag.triggers import TriggerMatcher
from rag.world import World
from train.encoder_data import Query, TriggerLine

NPC_K, WORLD_K = 3, 5
WHOLE = "keywords, then meaning"
"""How forbidden lists are told in play."""
_NUM_RESAMPLES = 2_000


@dataclass(frozen=True, slots=True)
class Recall:
    """Mean share of a query's relevant documents that are found, and of queries with any found."""

    recall: float
    hit: float
    num_queries: int


@dataclass(frozen=True, slots=True)
class Detection:
    """Counts of a yes-or-no decision against its labels."""

    hits: int
    false_alarms: int
    misses: int
    num: int

    @property
    def precision(self) -> float:
        """Of what was raised, the share that is right; 1 if nothing was."""
        raised = self.hits + self.false_alarms
        return self.hits / raised if raised else 1.0

    @property
    def recall(self) -> float:
        """Of what is right, the share that was raised; 1 if nothing is."""
        right = self.hits + self.misses
        return self.hits / right if right else 1.0


def retrieval_scores(retriever: Retriever, queries: Sequence[Query]) -> dict[str, Recall]:
    """Recall at NPC_K within an NPC and at WORLD_K over the world, in all and by language.

    Within an NPC also among lore alone, as a turn finds it; a description that answers is missed.
    """
    groups: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    for query in queries:
        for name, found in _found(retriever, query).items():
            right = {*query.relevant} & {*note_ids(found)}
            score = len(right) / len(query.relevant), bool(right)
            for group in (name, f"{name}, {query.lang}"):
                groups[group].append(score)
    return {
        name: Recall(
            float(np.mean([recall for recall, _ in scores])),
            float(np.mean([hit for _, hit in scores])),
            len(scores),
        )
        for name, scores in sorted(groups.items())
    }


def _found(retriever: Retriever, query: Query) -> dict[str, list[Match]]:
    """What a query finds, by the name of the search."""
    index, vector = retriever.index, retriever.encode(query.query)
    letters = retriever.letters(query.query)
    if not query.npc_id:
        found = index.search(vector, WORLD_K, is_wanted=_is_labelled, letters=letters)
        return {f"over the world, {WORLD_K}": found}
    return {
        name: index.near(vector, query.npc_id, NPC_K, index.those(is_wanted), letters)
        for name, is_wanted in (
            (f"within an NPC, {NPC_K}", _is_labelled),
            (f"within an NPC, {NPC_K} of lore", _is_lore),
        )
    }


def _is_lore(note: Note) -> bool:
    return isinstance(note, Lore)


def _is_labelled(note: Note) -> bool:
    """Whether queries name documents of its type as answers: model dialogues are none."""
    return not isinstance(note, DialogueTurn)


def detection(decided: Iterable[bool], labels: Iterable[bool]) -> Detection:
    """The counts of decisions against labels."""
    pairs = list(zip(decided, labels, strict=True))
    return Detection(
        sum(d and y for d, y in pairs),
        sum(d and not y for d, y in pairs),
        sum(y and not d for d, y in pairs),
        len(pairs),
    )


def trigger_decisions(
    world: World, matcher: TriggerMatcher, retriever: Retriever, lines: Sequence[TriggerLine]
) -> dict[str, list[bool]]:
    """Whether a list fires on each line, as its NPC hears it, by each way of telling."""
    told: dict[str, list[bool]] = defaultdict(list)
    for line in lines:
        scene = first_scene(world, line.npc_id or next(iter(world.npcs)))
        heard = retriever.embedder.hear(line.text)
        keyword = matcher.by_keyword(scene, line.text) is not None
        meaning = matcher.by_meaning(scene, line.text, heard) is not None
        told["keywords"].append(keyword)
        told["meaning"].append(meaning)
        told[WHOLE].append(keyword or meaning)
    return told


def told_of_play(
    world: World, matcher: TriggerMatcher, retriever: Retriever, lines: Sequence[TriggerLine]
) -> list[TriggerLine]:
    """Which of these remarks, harmless all of them, set a list off."""
    told = trigger_decisions(world, matcher, retriever, lines)[WHOLE]
    return [line for line, fired in zip(lines, told, strict=True) if fired]


def first_scene(world: World, npc_id: str) -> Scene:
    """Where an NPC's story begins."""
    persona = world.npcs[npc_id]
    stage, place = next(iter(persona.stages), ANY), next(iter(persona.locations), ANY)
    return Scene(npc_id, stage, place)


def interval(
    decided: Sequence[bool], labels: Sequence[bool], measure: Callable[[Detection], float]
) -> tuple[float, float]:
    """The 95% bootstrap interval of a measure (Efron 1979), over resampled lines."""
    rng = np.random.default_rng(0)
    pairs = np.array([decided, labels], bool)
    values = [
        measure(detection(*pairs[:, rng.integers(0, pairs.shape[1], pairs.shape[1])].tolist()))
        for _ in range(_NUM_RESAMPLES)
    ]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def by_group(
    decided: Sequence[bool], lines: Sequence[TriggerLine], key: Callable[[TriggerLine], str]
) -> Mapping[str, Detection]:
    """Detections of the lines of each group."""
    groups: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(lines):
        groups[key(line)].append(number)
    return {
        name: detection([decided[n] for n in numbers], [lines[n].hostile for n in numbers])
        for name, numbers in sorted(groups.items())
    }


def best_threshold(
    scores: npt.ArrayLike, labels: npt.ArrayLike, min_precision: float
) -> tuple[float, float, float]:
    """`(threshold, precision, recall)`: the highest recall at that precision or above.

    Without any such threshold: the one of the highest precision.
    """
    values, precision, recall = _by_threshold(scores, labels)
    fit = np.flatnonzero(precision >= min_precision)
    at = int(fit[-1]) if len(fit) else int(precision.argmax())
    return _between(values, at), float(precision[at]), float(recall[at])


def balanced_threshold(
    scores: npt.ArrayLike, labels: npt.ArrayLike, precision_goal: float, recall_goal: float
) -> tuple[float, float, float]:
    """`(threshold, precision, recall)` where the goal that is missed by more is missed by least."""
    values, precision, recall = _by_threshold(scores, labels)
    at = int(np.minimum(precision / precision_goal, recall / recall_goal).argmax())
    return _between(values, at), float(precision[at]), float(recall[at])


def _by_threshold(
    scores: npt.ArrayLike, labels: npt.ArrayLike
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scores in falling order; precision and recall if so many lines are raised."""
    values, truth = np.asarray(scores, float), np.asarray(labels, bool)
    order = np.argsort(-values, kind="stable")
    hits = np.cumsum(truth[order])
    return values[order], hits / np.arange(1, len(order) + 1), hits / max(1, truth.sum())


def _between(values: npt.NDArray[np.float64], at: int) -> float:
    """A threshold that the score at `at` reaches and the next does not."""
    following = values[at + 1] if at + 1 < len(values) else values[at] - 1e-6
    return (float(values[at]) + float(following)) / 2
