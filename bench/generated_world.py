"""A made-up world of any size, and an encoder under which its texts have neighbours.

A word is its topic's beginning and an end of its own; a text speaks mostly of one topic. The
encoder knows theme, topic and word, so texts that share them are near each other, as sentences of
one matter are, and nearest neighbours mean something. All of it follows from one seed.
"""

import random
import re
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from heads.attacks import AttackDetector, Detector, line_ngrams
from heads.ngrams import Hashes, HashIndex, Weights
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from rag.calibration import Calibration
from rag.documents import (
    ANY,
    Conditions,
    DeltaPolicy,
    Description,
    DialogueTurn,
    Document,
    Fallback,
    FallbackStyle,
    FlagDef,
    FlagPolicy,
    ForbiddenTriggerList,
    ForbiddenTriggers,
    LocalisedText,
    Lore,
    MainResValidate,
    NeededNames,
    NeededValues,
    NpcPersona,
    NpcState,
    Questions,
    TriggerDef,
    TriggerMeta,
)
from rag.embedder import Embedder, Vectors
from server.schemas import AskContext, AskRequest, HistoryTurn, PlayerState
from server.schemas import NpcState as AskedNpcState

STAGES = ("not_started", "in_progress", "completed")
PLACES = ("harbour", "tower", "market", "shrine", "mill", "bridge")
STAGE_FLAG = "quest_stage_change"
FLAGS = (
    "give_item",
    "give_hint",
    "npc_main_story",
    STAGE_FLAG,
    "change_npc_state",
    "change_player_state",
    "npc_action",
    "unlock_hidden_path",
)
"""As many as the demo world has."""
SPEC = HeadSpec(
    delta=(DeltaSpec("trust"), DeltaSpec("relationship")),
    flags=tuple(FlagSpec(name) for name in FLAGS),
)

NUM_NPC_DOCUMENTS, NUM_WORLD_DOCUMENTS = 21, 3
"""What each NPC has, and what the world has, before there is any lore or dialogue."""
_KINDS = (Lore, DialogueTurn, Lore, DialogueTurn, Lore, DialogueTurn, Questions)
_EVERYBODYS = 100
"""Of so many pieces of lore and dialogue one is the whole world's."""

_SHARE_ODD = 0.1
"""Of requests that threaten, and of those at a stage that no document knows."""

_NUM_THEMES, _NUM_TOPICS, _NUM_WORDS = 20, 20, 48
"""Themes of the world, topics of a theme, words of a topic."""
_SHARE_ON_TOPIC = 0.75
_KIEUK = 15
_SYLLABLES = [
    chr(ord("가") + (lead * 21 + vowel) * 28 + tail)
    for lead, vowel, tail in product(range(19), (0, 1, 4, 5, 8, 13, 18, 20), (0, 4, 8, 21))
    if lead != _KIEUK
]
_FORBIDDEN_SYLLABLES = [chr(ord("가") + (_KIEUK * 21 + vowel) * 28) for vowel in range(21)]
"""No other word has one of them, so that a keyword is found only where it was put."""


class Speech:
    """Made-up Korean about one topic or another."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        themes = self.random.sample(_SYLLABLES, _NUM_THEMES + 1)
        topics = [
            self._words(theme + second)
            for theme in themes
            for second in self.random.sample(_SYLLABLES, _NUM_TOPICS)
        ]
        self._hostile, self._topics = topics[:_NUM_TOPICS], topics[_NUM_TOPICS:]

    def topics(self, count: int) -> list[int]:
        """Some things to speak of."""
        return self.random.sample(range(len(self._topics)), count)

    def sentence(self, topic: int, low: int = 4, high: int = 9) -> str:
        """Between `low` and `high` words, most of them on the topic."""
        rng = self.random
        strays = rng.choices(self._topics, k=rng.randint(low, high))
        words = [
            rng.choice(self._topics[topic] if rng.random() < _SHARE_ON_TOPIC else stray)
            for stray in strays
        ]
        return " ".join(words) + rng.choice(".?!")

    def text(self, topic: int, num_sentences: int) -> str:
        """Several sentences on a topic."""
        return " ".join(self.sentence(topic) for _ in range(num_sentences))

    def threat(self) -> str:
        """What must not be said to anybody: it has a theme of its own."""
        words = self.random.choice(self._hostile)
        return " ".join(self.random.choices(words, k=self.random.randint(4, 7))) + "!"

    def keywords(self, count: int) -> list[str]:
        """Words that stand in no text."""
        rng = self.random
        return [
            "".join(rng.choices(_FORBIDDEN_SYLLABLES, k=rng.randint(2, 4))) for _ in range(count)
        ]

    def _words(self, beginning: str) -> list[str]:
        rng = self.random
        return [
            beginning + rng.choice(_SYLLABLES) + rng.choice(("", "요", "는", "에서"))
            for _ in range(_NUM_WORDS)
        ]


class TopicEmbedder(Embedder):
    """Unit vectors of texts: the mean of their words, each its theme, its topic and itself."""

    def __init__(self, seed: int, dim: int = 384) -> None:
        self.id, self.dim, self._seed = f"topics-{seed}", dim, seed
        self.seconds = 0.0
        """What all calls have taken."""
        self._vectors: dict[str, Vectors] = {}

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Unit vectors, float32 [len(texts), dim]."""
        start = time.perf_counter()
        vectors = np.stack([self._text(text) for text in texts])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        self.seconds += time.perf_counter() - start
        return vectors

    def _text(self, text: str) -> Vectors:
        words = [self._word(word) for word in re.findall(r"\w+", text)]
        vector: Vectors = np.sum(words, axis=0)
        return vector

    def _word(self, word: str) -> Vectors:
        if word not in self._vectors:
            parts = (word[:1], word[:2], word)
            theme, topic, itself = (self._part(part, len(part)) for part in parts)
            self._vectors[word] = 0.7 * theme + topic + 1.5 * itself
        return self._vectors[word]

    def _part(self, part: str, size: int) -> Vectors:
        rng = np.random.default_rng([self._seed, size, zlib.crc32(part.encode())])
        return rng.standard_normal(self.dim, np.float32)


def make_calibration(embedder: TopicEmbedder, speech: Speech) -> Calibration:
    """Bounds that fit the encoder."""
    asked = embedder.encode([speech.sentence(topic) for topic in speech.topics(256)])
    return Calibration(
        embedder=embedder.id, centre=asked.mean(axis=0).tolist(), note=0.4, same=0.8, letters=0.04
    )


def make_detector(speech: Speech) -> AttackDetector:
    """A detector of this world's threats: what sets their n-grams apart from ordinary ones."""
    threats = [line_ngrams(speech.threat()) for _ in range(64)]
    others = [line_ngrams(speech.sentence(topic)) for topic in speech.topics(64)]
    index = HashIndex(np.unique(np.concatenate([hashes for hashes, _ in threats + others])))

    def features(lines: Sequence[tuple[Hashes, Weights]]) -> Weights:
        found = np.zeros((len(lines), len(index.keys)))
        for row, line in enumerate(lines):
            columns, shares = index.at_unit_length(*line)
            found[row, columns] = shares
        return found

    bad, good = features(threats), features(others)
    weights = bad.mean(axis=0) - good.mean(axis=0)
    high, low = (bad @ weights).mean(), (good @ weights).mean()
    weights *= 12 / (high - low)
    content = Detector(
        keys=index.keys.astype("<u4").tobytes(),
        weights=weights.astype("<f2").tobytes(),
        bias=float(-6 * (high + low) / (high - low)),
        threshold=0.5,
    )
    return AttackDetector(content)


@dataclass(frozen=True, slots=True)
class GeneratedWorld:
    """Documents, and the topics that each NPC (and everybody) has to do with."""

    documents: list[Document]
    topics: dict[str, list[int]]

    @property
    def npcs(self) -> list[str]:
        """The ids of the NPCs."""
        return [npc for npc in self.topics if npc != ANY]


def make_world(num_documents: int, num_npcs: int, speech: Speech) -> GeneratedWorld:
    """A valid world of just so many documents, an NPC's part as long as another's.

    There must be enough of them: `NUM_NPC_DOCUMENTS` an NPC and `NUM_WORLD_DOCUMENTS`.
    """
    npcs = [f"npc{number:05}" for number in range(num_npcs)]
    topics = {npc: speech.topics(6) for npc in [*npcs, ANY]}
    documents: list[Document] = [*_world_documents(speech)]
    for npc in npcs:
        documents += _npc_documents(npc, topics[npc][0], speech)
    notes = _Notes(speech, topics)
    for number in range(num_documents - len(documents)):
        is_everybodys = number % _EVERYBODYS == _EVERYBODYS - 1
        npc = ANY if is_everybodys else npcs[number % num_npcs]
        kind = _KINDS[number // num_npcs % len(_KINDS)]
        documents.append(notes.make(kind, f"note{number:07}", npc))
    return GeneratedWorld(documents, topics)


@dataclass(slots=True)
class _Notes:
    """Makes lore, dialogue, and questions about the last of them that the same NPC was given."""

    speech: Speech
    topics: dict[str, list[int]]
    last: dict[str, str] = field(default_factory=dict)

    def make(self, kind: type[Document], name: str, npc: str) -> Document:
        rng, speech = self.speech.random, self.speech
        topic = rng.choice(self.topics[npc])
        if kind is Questions and npc in self.last:
            asked = [speech.sentence(topic) for _ in range(4)]
            return Questions(id=name, npc_id=npc, about=self.last[npc], questions=asked)
        self.last[npc] = name
        stage = rng.choice((ANY, ANY, *STAGES)) if npc != ANY else ANY
        if kind is DialogueTurn:
            said, reply = speech.sentence(topic), speech.text(topic, 2)
            return DialogueTurn(id=name, npc_id=npc, quest_stage=stage, player=said, npc=reply)
        title, content = speech.sentence(topic, 1, 2)[:-1], speech.text(topic, 3)
        return Lore(id=name, npc_id=npc, quest_stage=stage, title=title, content=content)


def _world_documents(speech: Speech) -> Iterator[Document]:
    """Words that nobody may say, and what an NPC does who has nothing to say."""
    banned = ForbiddenTriggers(keywords=speech.keywords(30))
    yield ForbiddenTriggerList(id="banned", triggers=banned)
    yield TriggerMeta(id="banned.meta", trigger="banned", delta={"trust": -0.1})
    yield Fallback(id="fallback", lines=["…"])


def _npc_documents(npc: str, topic: int, speech: Speech) -> Iterator[Document]:
    """Everything about an NPC but lore and dialogue."""
    rng, places = speech.random, speech.random.sample(PLACES, 2)
    yield NpcPersona(
        id=f"{npc}.persona",
        npc_id=npc,
        name=speech.sentence(topic, 1, 2)[:-1],
        persona=speech.text(topic, 2),
        style=speech.sentence(topic),
        lore=speech.text(topic, 2),
        initial_state=NpcState(trust=round(rng.uniform(-0.2, 0.4), 2)),
        stages=[*STAGES],
        locations=places,
    )
    style = FallbackStyle(style=speech.sentence(topic), npc_emotion="wary")
    lines: list[LocalisedText] = [speech.sentence(topic) for _ in range(3)]
    yield Fallback(id=f"{npc}.fallback", npc_id=npc, fallback_style=style, lines=lines)
    forbidden = ForbiddenTriggers(
        keywords=speech.keywords(20), text=[speech.threat() for _ in range(14)]
    )
    name = f"{npc}.forbidden"
    yield ForbiddenTriggerList(id=name, npc_id=npc, triggers=forbidden)
    yield TriggerMeta(id=f"{npc}.meta", npc_id=npc, trigger=name, delta={"trust": -0.3})
    good, bad = _examples(topic, 6, speech)
    yield MainResValidate(
        id=f"{npc}.validate", npc_id=npc, examples_positive=good, examples_negative=bad
    )
    for stage in STAGES:
        yield Description(
            id=f"{npc}.description.{stage}",
            npc_id=npc,
            quest_stage=stage,
            content=speech.text(topic, 2),
            instructions=speech.sentence(topic),
        )
        yield _trigger_def(npc, stage)
    yield from _flag_defs(npc, topic, speech)


def _trigger_def(npc: str, stage: str) -> TriggerDef:
    bounds = DeltaPolicy(min=-0.4, max=0.3, per_turn_cap=0.25)
    needed = Conditions(
        required_game_state={"weather": ["clear", "rain"]},
        required_delta=NeededValues(mandatory={"trust": -0.6}),
        unless=[Conditions(required_npc_state={"npc_mood": "hostile"})],
    )
    return TriggerDef(
        id=f"{npc}.trigger.{stage}",
        npc_id=npc,
        quest_stage=stage,
        trigger=needed,
        delta_policy={"trust": bounds, "relationship": bounds},
        flag_policy=FlagPolicy(forbidden=["npc_action"] if stage == STAGES[0] else []),
    )


def _flag_defs(npc: str, topic: int, speech: Speech) -> Iterator[FlagDef]:
    """Each flag with conditions; an item without them too, in case they aren't met."""
    item = f"{npc}_item"
    trusted = Conditions(
        required_items=NeededNames(optional=[item]),
        required_delta=NeededValues(mandatory={"trust": 0.2}),
        unless=[Conditions(required_player_state={"reputation": "bad"})],
    )
    cases: list[tuple[str, str, str, Conditions | None]] = [
        (STAGE_FLAG, STAGES[0], STAGES[1], trusted),
        (STAGE_FLAG, STAGES[1], STAGES[2], None),
        ("give_item", ANY, item, trusted),
        ("give_item", ANY, f"{npc}_trinket", None),
        *((flag, STAGES[1], f"{npc}.{flag}", trusted) for flag in ("give_hint", "npc_main_story")),
        *((flag, ANY, f"{npc}.{flag}", trusted) for flag in FLAGS[4:]),
    ]
    for number, (flag, stage, value, conditions) in enumerate(cases):
        good, bad = _examples(topic, 4, speech)
        yield FlagDef(
            id=f"{npc}.flag{number}.{flag}",
            npc_id=npc,
            quest_stage=stage,
            flag_name=flag,
            value=value,
            text=speech.sentence(topic),
            conditions=conditions,
            examples_positive=good,
            examples_negative=bad,
        )


def _examples(topic: int, count: int, speech: Speech) -> tuple[list[str], list[str]]:
    """Texts that speak for something, and as many against it."""
    texts = [speech.sentence(topic) for _ in range(2 * count)]
    return texts[:count], texts[count:]


def make_request(npc: str, topic: int, speech: Speech) -> AskRequest:
    """What a player may send: now and then a threat, or a stage that the world does not know.

    No keyword is in it, since looking in vain takes longest.
    """
    rng = speech.random
    history = [
        HistoryTurn(speech.sentence(topic), speech.text(topic, 2))
        for _ in range(rng.randint(0, 12))
    ]
    stage = "unknown" if rng.random() < _SHARE_ODD else rng.choice(STAGES)
    player = PlayerState(items=[f"{npc}_item", "rope"], actions=["bow"], reputation="known")
    game_state = {"quest_stage": stage, "location": rng.choice(PLACES), "weather": "rain"}
    return AskRequest(
        npc_id=npc,
        player_id=f"player{rng.randrange(10_000)}",
        text=speech.threat() if rng.random() < _SHARE_ODD else speech.sentence(topic, 4, 12),
        context=AskContext(
            player_state=player,
            game_state={**game_state},
            npc_state=AskedNpcState(trust=rng.uniform(-1, 1), npc_mood="calm"),
        ),
        dialogue_history=history,
    )
