"""What a player must not say: forbidden trigger lists, by their keywords and then by meaning.

A list fires at what means the same as one of its example texts. A list whose examples are attacks
(threats, extortion, death wishes, vicious abuse) fires at any attack besides, so its author need
not foresee each; that it is one, the detector of `heads.attacks` says of the examples themselves.
"""

from dataclasses import dataclass

from heads.attacks import AttackDetector, default_detector
from rag.documents import ANY, ForbiddenTriggerList, TriggerMeta
from rag.embedder import Heard
from rag.keywords import NO_KEYWORDS, Keywords
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
class AttackScore:
    """How much of an attack an utterance is, and from where on it is one."""

    value: float
    threshold: float


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
    attack: AttackScore | None
    """Where the list is one of attacks."""

    @property
    def fires(self) -> bool:
        """Whether the list fires by meaning."""
        is_attack = self.attack is not None and self.attack.value >= self.attack.threshold
        return is_attack or self.cosine >= self.same


class TriggerMatcher:
    """Finds the forbidden list that an utterance sets off."""

    def __init__(
        self, world: World, retriever: Retriever | None, detector: AttackDetector | None = None
    ) -> None:
        self._world, self._retriever = world, retriever
        self._detector = detector or default_detector()
        blend = retriever.embedder.blend if retriever else None
        self._blend = blend if blend and blend.was_fitted_with(self._detector) else None
        lists = [d for d in world.documents if isinstance(d, ForbiddenTriggerList)]
        self._keywords = {d.id: Keywords.of(d.triggers.keywords) for d in lists}
        self._attack_lists = {d.id for d in lists if self._is_of_attacks(d)}

    def by_keyword(self, scene: Scene, utterance: str) -> Fired | None:
        """The first list at `scene` of which a keyword was said, plain or disguised."""
        for document, meta in self._world.forbidden(scene):
            if keyword := self.keyword(document, utterance):
                return Fired(document, meta, keyword=keyword)
        return None

    def keyword(self, document: ForbiddenTriggerList, utterance: str) -> str | None:
        """The first of a list's keywords that was said, plain or disguised."""
        return self._keywords[document.id].found_in(utterance)

    def by_meaning(self, scene: Scene, utterance: str, heard: Heard | None) -> Fired | None:
        """Of the lists at `scene` that fire by meaning, the one with the nearest example.

        Without what an encoder `heard` only attacks are, and those by their letters alone.
        """
        fired = [hearing for hearing in self.hearings(scene, utterance, heard) if hearing.fires]
        if not fired:
            return None
        best = max(fired, key=lambda hearing: hearing.cosine)
        return Fired(best.document, best.meta, example=best.example)

    def hearings(self, scene: Scene, utterance: str, heard: Heard | None) -> list[Hearing]:
        """How an utterance stands to every list at `scene` that has example texts."""
        hearings = []
        attack: AttackScore | None = None
        for document, meta in self._world.forbidden(scene):
            if not document.triggers.text:
                continue
            cosine, example, same = -1.0, "", 1.0
            if self._retriever and heard is not None:
                index, texts = self._retriever.index, document.triggers.text
                cosine, example = index.nearest(heard.vector, texts)
                same = self._retriever.calibration.same
            is_of_attacks = document.id in self._attack_lists
            if is_of_attacks and attack is None:
                attack = self._attack(utterance, heard)
            told = attack if is_of_attacks else None
            hearings.append(Hearing(document, meta, example, cosine, same, told))
        return hearings

    def _attack(self, utterance: str, heard: Heard | None) -> AttackScore:
        logit = heard.attack_logit if heard else None
        if self._blend is None or logit is None:
            return AttackScore(self._detector.score(utterance), self._detector.threshold)
        score = self._blend.score(logit, self._detector.logit(utterance))
        return AttackScore(score, self._blend.threshold)

    def banned(self, scene: Scene) -> Keywords:
        """Words that no NPC at `scene` may say either: keywords of everybody's lists."""
        lists = (d for d, _ in self._world.forbidden(scene) if d.npc_id == ANY)
        return sum((self._keywords[document.id] for document in lists), NO_KEYWORDS)

    def _is_of_attacks(self, document: ForbiddenTriggerList) -> bool:
        """Whether more of its examples are like attacks than not: each needs no certainty."""
        scores = [self._detector.score(text) for text in document.triggers.text]
        return sum(score >= 0.5 for score in scores) * 2 > len(scores)
