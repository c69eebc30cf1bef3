"""What a player must not say: forbidden trigger lists, by their keywords and then by meaning.

A list whose example texts are attacks (threats, extortion, death wishes, vicious abuse) fires at
any attack; so its author need not foresee each. Any other list fires at what means the same as one
of its examples. Which kind a list is, the detector says of the examples themselves.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from rag.calibration import HostilityDetector
from rag.documents import ANY, ForbiddenTriggerList, TriggerMeta
from rag.index import Vector
from rag.keywords import find_keyword
from rag.retriever import Retriever
from rag.scopes import Scene
from rag.world import World


@dataclass(frozen=True, slots=True)
class Fired:
    """The list that fired, what happens then, and what made it fire."""

    document: ForbiddenTriggerList
    meta: TriggerMeta | None
    keyword: str | None = None
    example: str | None = None
    score: float | None = None
    """Of the detector, or the cosine to the example where the list is no list of attacks."""


@dataclass(frozen=True, slots=True)
class Hearing:
    """How an utterance stands to one list, whether it fires or not."""

    document: ForbiddenTriggerList
    meta: TriggerMeta | None
    example: str
    cosine: float
    attack: float | None
    """The detector's score where the list is one of attacks."""
    threshold: float

    @property
    def fires(self) -> bool:
        """Whether the list fires by meaning."""
        return (self.cosine if self.attack is None else self.attack) >= self.threshold


class TriggerMatcher:
    """Finds the forbidden list that an utterance sets off."""

    def __init__(self, world: World, retriever: Retriever | None) -> None:
        self._world, self._retriever = world, retriever
        self._detector = retriever.detector if retriever else None
        lists = (d for d in world.documents if isinstance(d, ForbiddenTriggerList))
        self._attack_lists = {d.id for d in lists if self._is_of_attacks(d)}

    def by_keyword(self, scene: Scene, utterance: str) -> Fired | None:
        """The first list at `scene` of which a keyword was said, plain or disguised."""
        for document, meta in self._world.forbidden(scene):
            if keyword := find_keyword(utterance, document.triggers.keywords):
                return Fired(document, meta, keyword=keyword)
        return None

    def by_meaning(self, scene: Scene, vector: Vector) -> Fired | None:
        """Of the lists at `scene` that fire by meaning, the one with the nearest example."""
        fired = [hearing for hearing in self.hear(scene, vector) if hearing.fires]
        if not fired:
            return None
        best = max(fired, key=lambda hearing: hearing.cosine)
        score = best.cosine if best.attack is None else best.attack
        return Fired(best.document, best.meta, example=best.example, score=score)

    def hear(self, scene: Scene, vector: Vector) -> list[Hearing]:
        """How an utterance stands to every list at `scene` that has example texts."""
        if self._retriever is None:
            return []
        heard = []
        for document, meta in self._world.forbidden(scene):
            if not document.triggers.text:
                continue
            cosine, example = self._retriever.index.nearest(vector, document.triggers.text)
            attack, threshold = None, self._retriever.calibration.same
            if self._detector and document.id in self._attack_lists:
                attack, threshold = self._detector.score(vector), self._detector.threshold
            heard.append(Hearing(document, meta, example, cosine, attack, threshold))
        return heard

    def banned(self, scene: Scene) -> list[str]:
        """Words that no NPC at `scene` may say either: keywords of everybody's lists."""
        return [
            keyword
            for document, _ in self._world.forbidden(scene)
            if document.npc_id == ANY
            for keyword in document.triggers.keywords
        ]

    def _is_of_attacks(self, document: ForbiddenTriggerList) -> bool:
        if self._retriever is None or self._detector is None or not document.triggers.text:
            return False
        vectors = self._retriever.index.vectors(document.triggers.text)
        return _most(self._detector, vectors)


def _most(detector: HostilityDetector, vectors: Iterable[Vector]) -> bool:
    verdicts = [detector.score(vector) >= detector.threshold for vector in vectors]
    return sum(verdicts) * 2 > len(verdicts)
