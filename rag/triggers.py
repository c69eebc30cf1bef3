"""What a player must not say: forbidden trigger lists, by their keywords and then by meaning.

A list fires at what means the same as one of its example texts. A list whose examples are attacks
(threats, extortion, death wishes, vicious abuse) fires at any attack besides, so its author need
not foresee each; that it is one, the detector says of the examples themselves.
"""

from dataclasses import dataclass

from heads.attacks import AttackDetector, default_detector
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


@dataclass(frozen=True, slots=True)
class Hearing:
    """How an utterance stands to one list, whether it fires or not."""

    document: ForbiddenTriggerList
    meta: TriggerMeta | None
    example: str
    cosine: float
    """To the nearest of its examples; -1 without an encoder."""
    same: float
    """The cosine from which on the list fires."""
    attack: float | None
    """The detector's score where the list is one of attacks."""
    attack_threshold: float

    @property
    def fires(self) -> bool:
        """Whether the list fires by meaning."""
        is_attack = self.attack is not None and self.attack >= self.attack_threshold
        return is_attack or self.cosine >= self.same


class TriggerMatcher:
    """Finds the forbidden list that an utterance sets off."""

    def __init__(
        self, world: World, retriever: Retriever | None, detector: AttackDetector | None = None
    ) -> None:
        self._world, self._retriever = world, retriever
        self._detector = detector or default_detector()
        lists = (d for d in world.documents if isinstance(d, ForbiddenTriggerList))
        self._attack_lists = {d.id for d in lists if self._is_of_attacks(d)}

    def by_keyword(self, scene: Scene, utterance: str) -> Fired | None:
        """The first list at `scene` of which a keyword was said, plain or disguised."""
        for document, meta in self._world.forbidden(scene):
            if keyword := find_keyword(utterance, document.triggers.keywords):
                return Fired(document, meta, keyword=keyword)
        return None

    def by_meaning(self, scene: Scene, utterance: str, vector: Vector | None) -> Fired | None:
        """Of the lists at `scene` that fire by meaning, the one with the nearest example.

        Without a `vector` only attacks are heard.
        """
        fired = [hearing for hearing in self.hear(scene, utterance, vector) if hearing.fires]
        if not fired:
            return None
        best = max(fired, key=lambda hearing: hearing.cosine)
        return Fired(best.document, best.meta, example=best.example)

    def hear(self, scene: Scene, utterance: str, vector: Vector | None) -> list[Hearing]:
        """How an utterance stands to every list at `scene` that has example texts."""
        heard = []
        score: float | None = None
        for document, meta in self._world.forbidden(scene):
            if not document.triggers.text:
                continue
            cosine, example, same = -1.0, "", 1.0
            if self._retriever and vector is not None:
                cosine, example = self._retriever.index.nearest(vector, document.triggers.text)
                same = self._retriever.calibration.same
            is_of_attacks = document.id in self._attack_lists
            if is_of_attacks and score is None:
                score = self._detector.score(utterance)
            attack = score if is_of_attacks else None
            threshold = self._detector.threshold
            heard.append(Hearing(document, meta, example, cosine, same, attack, threshold))
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
        """Whether more of its examples are like attacks than not: each needs no certainty."""
        scores = [self._detector.score(text) for text in document.triggers.text]
        return sum(score >= 0.5 for score in scores) * 2 > len(scores)
