"""What fires a forbidden list: its keywords, any attack, or what means the same as an example.

The encoder's vectors are a table, so that how near texts are is plain: attack, secret, shop, tide.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import pytest
from msgspec.structs import replace

from heads.attacks import AttackDetector, Blend
from rag.calibration import Calibration
from rag.documents import Document, ForbiddenTriggerList, ForbiddenTriggers, TriggerMeta
from rag.embedder import Embedder, Heard
from rag.index_store import open_index
from rag.retriever import Retriever
from rag.scopes import Scene
from rag.triggers import AttackScore, Fired, TriggerMatcher
from rag.world import World
from tests.rag.fake_embedder import TableEmbedder

SCENE = Scene("mina", "started", "pier")
BURN, BLEED = "I will burn your shop.", "Pay me or your shop bleeds."
WHERE, TELL = "Where is the pearl hidden?", "Tell me the pearl's place."
DROWN = "May the tide take you, wretch."
HIDING = "Say where you hid the pearl."
WEATHER, SHOP, MENACE = "The tide is in.", "Nice shop you have.", "The pearl, or you die."
MEANINGS: dict[str, Sequence[float]] = {
    # attack, secret, shop, tide
    BURN: (0.8, 0, 0.6, 0),
    BLEED: (0.75, 0.1, 0.65, 0),
    WHERE: (0, 1, 0, 0),
    TELL: (0, 0.95, 0.1, 0.1),
    DROWN: (0.8, 0, -0.2, 0.6),
    HIDING: (0, 0.95, 0, 0.2),
    WEATHER: (0, 0, 0, 1),
    SHOP: (0.1, 0, 1, 0),
    MENACE: (0.7, 0.7, 0, 0),
}


class KnownAttacks(AttackDetector):
    """Knows which of the texts are attacks."""

    def __init__(self) -> None:
        self.threshold, self.id = 0.8, "known"
        self.logit = lru_cache(self._logit)

    def _logit(self, text: str) -> float:
        return 2.2 if text in {BURN, BLEED, DROWN, MENACE} else -2.2


ATTACKS = KnownAttacks()
SAME = 0.9


def a_list(
    name: str,
    *texts: str,
    npc_id: str = "any",
    stage: str = "any",
    keywords: Sequence[str] = (),
) -> ForbiddenTriggerList:
    triggers = ForbiddenTriggers(keywords=[*keywords], text=[*texts])
    return ForbiddenTriggerList(id=name, npc_id=npc_id, quest_stage=stage, triggers=triggers)


THREATS = a_list("threats", BURN, BLEED, keywords=["scum", "죽여 버"])
SECRETS = a_list("secrets", WHERE, TELL, npc_id="mina", keywords=["pearl thief"])
THREATS_META = TriggerMeta(id="m", trigger="threats", delta={"trust": -0.5})
BOTH: list[Document] = [THREATS, THREATS_META, SECRETS]


class TaughtTable(TableEmbedder):
    """Takes one text for an attack."""

    def __init__(self, attack: str, blend: Blend | None) -> None:
        super().__init__(MEANINGS)
        self.attack, self.blend = attack, blend

    def hear(self, text: str) -> Heard:
        return Heard(self.encode([text])[0], 4.0 if text == self.attack else -4.0)


class Ears:
    """A matcher with its encoder."""

    def __init__(self, documents: Sequence[Document], embedder: Embedder | None = None) -> None:
        embedder = embedder or TableEmbedder(MEANINGS)
        index, _ = open_index(documents, embedder)
        calibration = Calibration(embedder=embedder.id, note=0.5, same=SAME)
        self.retriever = Retriever(embedder, index, calibration)
        self.matcher = TriggerMatcher(World(documents), self.retriever, ATTACKS)

    def hear(self, text: str, scene: Scene = SCENE) -> Fired | None:
        return self.matcher.by_meaning(scene, text, self.retriever.embedder.hear(text))

    def cosine(self, text: str, other: str) -> float:
        return float(self.retriever.encode(text) @ self.retriever.encode(other))


def test_a_list_of_attacks_fires_at_an_attack_that_is_near_none_of_its_examples() -> None:
    ears = Ears(BOTH)
    assert max(ears.cosine(DROWN, example) for example in (BURN, BLEED)) < SAME - 0.2
    fired = ears.hear(DROWN)
    assert fired is not None
    assert (fired.document, fired.meta, fired.keyword) == (THREATS, THREATS_META, None)
    assert fired.example == BURN  # the nearest of its examples, far as it is


def test_a_list_of_attacks_does_not_fire_at_what_is_about_the_same_but_no_attack() -> None:
    ears = Ears(BOTH)
    assert ears.cosine(SHOP, BLEED) > 0.65
    assert ears.hear(SHOP) is None
    assert ears.hear(WEATHER) is None


def test_a_list_of_another_topic_fires_only_at_what_means_the_same_as_an_example() -> None:
    ears = Ears([SECRETS])
    fired = ears.hear(HIDING)
    assert fired is not None
    assert (fired.document, fired.meta, fired.example) == (SECRETS, None, TELL)
    for text in (DROWN, WEATHER, MENACE):  # an attack too: the list is not of attacks
        assert ears.hear(text) is None


def test_a_list_of_attacks_fires_by_its_examples_too() -> None:
    harmless = "A plea that reads like none."
    MEANINGS[harmless] = MEANINGS[BURN]
    ears = Ears(BOTH)
    fired = ears.hear(harmless)
    assert fired is not None
    assert (fired.document, fired.example) == (THREATS, BURN)


@pytest.mark.parametrize(
    ("examples", "is_of_attacks"),
    [
        ([BURN], True),
        ([BURN, BLEED, WHERE], True),
        ([BURN, WHERE], False),
        ([BURN, WHERE, TELL], False),
        ([WHERE], False),
    ],
)
def test_a_list_is_of_attacks_if_most_of_its_examples_are(
    examples: list[str], is_of_attacks: bool
) -> None:
    assert (Ears([a_list("l", *examples)]).hear(DROWN) is not None) == is_of_attacks


def test_of_the_lists_that_fire_the_one_with_the_nearest_example_is_told() -> None:
    close, far = a_list("close", DROWN), a_list("far", BURN)
    for documents in ([close, far], [far, close]):
        fired = Ears(documents).hear(DROWN)
        assert fired is not None
        assert fired.document.id == "close"


def test_only_the_lists_of_the_scene_are_heard() -> None:
    later = a_list("later", BURN, npc_id="mina", stage="over", keywords=["scum"])
    ears = Ears([later, a_list("rook's", BURN, npc_id="rook", keywords=["scum"])])
    assert ears.hear(BURN) is None
    assert ears.matcher.by_keyword(SCENE, "you scum") is None
    fired = ears.hear(BURN, Scene("mina", "over"))
    assert fired is not None
    assert fired.document == later


def test_what_was_heard_is_told_of_every_list_whether_it_fires_or_not() -> None:
    words_only = a_list("words", keywords=["scum"])
    ears = Ears([*BOTH, words_only])
    heard = ears.matcher.hearings(SCENE, MENACE, ears.retriever.embedder.hear(MENACE))
    secrets, threats = heard  # the most specific first; words mean nothing
    assert (secrets.document, secrets.example, secrets.attack) == (SECRETS, WHERE, None)
    assert secrets.cosine == pytest.approx(ears.cosine(MENACE, WHERE))
    assert (secrets.same, secrets.fires) == (SAME, False)
    assert (threats.document, threats.meta) == (THREATS, THREATS_META)
    assert threats.attack == AttackScore(ATTACKS.score(MENACE), ATTACKS.threshold)
    assert threats.fires


def test_a_list_fires_from_its_threshold_on() -> None:
    embedder = TableEmbedder(MEANINGS)
    index, _ = open_index([SECRETS], embedder)
    heard = Heard(embedder.encode([HIDING])[0])
    cosine, _ = index.nearest(heard.vector, [WHERE, TELL])
    for same, is_heard in ((cosine, True), (cosine + 1e-6, False)):
        calibration = Calibration(embedder=embedder.id, note=0.5, same=same)
        matcher = TriggerMatcher(World([SECRETS]), Retriever(embedder, index, calibration))
        assert (matcher.by_meaning(SCENE, HIDING, heard) is not None) == is_heard


@pytest.mark.parametrize(
    ("said", "document", "keyword"),
    [
        ("You SCUM!", THREATS, "scum"),
        ("s.c.u.m", THREATS, "scum"),
        ("확 죽여버린다", THREATS, "죽여 버"),
        ("You pearl thief!", SECRETS, "pearl thief"),
        ("scum, you pearl thief", SECRETS, "pearl thief"),  # the more specific list
    ],
)
def test_a_keyword_fires_its_list_plain_or_disguised(
    said: str, document: ForbiddenTriggerList, keyword: str
) -> None:
    fired = Ears(BOTH).matcher.by_keyword(SCENE, said)
    meta = THREATS_META if document is THREATS else None
    assert fired == Fired(document, meta, keyword=keyword)


def test_without_an_encoder_keywords_and_attacks_fire_and_nothing_else_does() -> None:
    matcher = TriggerMatcher(World(BOTH), None, ATTACKS)
    assert matcher.by_keyword(SCENE, "you scum") == Fired(THREATS, THREATS_META, keyword="scum")
    fired = matcher.by_meaning(SCENE, DROWN, None)
    assert fired is not None
    assert fired.document == THREATS
    assert matcher.by_meaning(SCENE, TELL, None) is None


BLEND = Blend(ngrams="known", encoder_weight=1, ngram_weight=0.5, bias=0, threshold=0.7)


def test_where_the_encoder_was_taught_its_word_and_the_letters_count_together() -> None:
    ears = Ears(BOTH, TaughtTable(SHOP, BLEND))
    (_, threats) = ears.matcher.hearings(SCENE, SHOP, ears.retriever.embedder.hear(SHOP))
    assert threats.attack is not None
    assert threats.attack.value == pytest.approx(1 / (1 + math.exp(1.1 - 4)))
    assert threats.attack.threshold == 0.7
    assert threats.fires
    assert ears.hear(DROWN) is None  # to the letters an attack, to the encoder none
    without = ears.matcher.by_meaning(SCENE, DROWN, None)
    assert without is not None


@pytest.mark.parametrize("blend", [None, replace(BLEND, ngrams="others")])
def test_a_word_that_was_not_weighed_beside_these_letters_does_not_count(
    blend: Blend | None,
) -> None:
    ears = Ears(BOTH, TaughtTable(SHOP, blend))
    assert ears.hear(SHOP) is None
    assert ears.hear(DROWN) is not None


def test_npcs_may_not_say_everybodys_keywords_but_may_say_their_own() -> None:
    later = a_list("later", stage="over", keywords=["wretch"])
    matcher = TriggerMatcher(World([*BOTH, later]), None)
    assert [*matcher.banned(SCENE)] == ["scum", "죽여 버"]
    assert set(matcher.banned(Scene("mina", "over"))) == {"scum", "죽여 버", "wretch"}
