"""What a turn says in so many words: n-grams of the player's line, and the names in the state.

Beside them, how much of an attack the line is (`heads/attacks.py`): its detector has read four
times as many lines as there are labelled turns.

A linear model on them stands beside the one on `<STATE>` in `heads.onnx` (wide and deep learning,
Cheng et al. 2016, arXiv:1606.07792): it learns from a few labels which words matter to which NPC.
Features are known by their hash (`heads/ngrams.py`); those that training never saw often enough
count for nothing.
"""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from heads.attacks import default_detector
from heads.ngrams import Hashes, HashIndex, Rows, Weights, count_ngrams, words_of
from runtime.prompt import STATE_KEYS, State, StateValue

CLUE_FORMAT = 2
"""Another way to find or hash features is another format: a table knows its own alone."""
LONGEST_NGRAM = 4
"""Of n-grams inside a word and its borders."""
_STEPS = tuple(step / 10 for step in range(-9, 10))
_STEPPED_KEYS = ("trust",)
_OWN_KEYS = ("quest_stage", "items")
"""What each NPC makes something else of. More keys here or above were worse on validation."""
_ATTACK_LOGIT = 4.0
"""Of the detector of attacks, counts as 1."""
_MIX = 0x9E3779B1
"""An odd multiplier maps 32 bits onto themselves, and is not linear over xor as CRC-32 is."""


@dataclass(frozen=True, slots=True)
class Remark:
    """What was said to whom, in which state (STATE_KEYS alone count)."""

    npc_id: str
    utterance: str
    state: State


@dataclass(frozen=True, slots=True)
class Features:
    """Of a remark: hashes of its distinct n-grams with 1 + log(count), of its names with values."""

    ngrams: Hashes
    logs: Weights
    names: Hashes
    values: Weights


@dataclass(frozen=True, slots=True)
class Clues:
    """The known features of a remark: rows of the weights' table, int64 [k], and float32 [k]."""

    rows: Rows
    weights: npt.NDArray[np.float32]


NO_CLUES = Clues(np.zeros(0, np.int64), np.zeros(0, np.float32))


class ClueIndex(HashIndex):
    """Knows features of remarks by their row."""

    def find(self, remark: Remark) -> Clues:
        """The remark's known features."""
        return self.known_of(features_of(remark))

    def known_of(self, found: Features) -> Clues:
        """The known ones among features: n-grams at unit length, names as they are."""
        ngrams, logs = self.at_unit_length(found.ngrams, found.logs)
        names, values = self.known(found.names, found.values)
        return Clues(
            np.concatenate([ngrams, names]), np.concatenate([logs, values]).astype(np.float32)
        )


def features_of(remark: Remark) -> Features:
    """All features of a remark, known or not; n-grams and some names once more for its NPC."""
    npc_name = _hash("npc", remark.npc_id)
    npc = np.uint32(npc_name * _MIX % 2**32)
    words = words_of(remark.utterance)
    ngrams, logs = count_ngrams((f" {word} " for word in words), LONGEST_NGRAM)
    named = [(npc_name, 1.0)]
    for key in STATE_KEYS:
        if key in remark.state:
            named += _names(key, remark.state[key])
    names, values = zip(*named, *_attack(remark), strict=True)
    own = [_hash(key, name) for key in _OWN_KEYS for name in _texts(remark.state.get(key, ()))]
    return Features(
        np.concatenate([ngrams, _mixed(ngrams, npc)]),
        np.concatenate([logs, logs]),
        np.concatenate([np.array(names, np.uint32), _mixed(np.array(own, np.uint32), npc)]),
        np.array([*values, *(1.0 for _ in own)]),
    )


def _mixed(hashes: Hashes, npc: np.uint32) -> Hashes:
    """Hashes of the same features as this NPC's own."""
    own: Hashes = (hashes ^ npc) * np.uint32(_MIX)
    return own


def _names(key: str, value: StateValue) -> Iterator[tuple[int, float]]:
    if isinstance(value, (int, float)):
        value = round(max(-1.0, min(1.0, value)), 2)  # as the prompt shows it
        yield _hash(key, ""), value
        if key in _STEPPED_KEYS:
            yield from ((_hash(key, f">={step}"), 1.0) for step in _STEPS if value >= step - 1e-6)
    else:
        yield from ((_hash(key, text), 1.0) for text in _texts(value))


def _attack(remark: Remark) -> Iterator[tuple[int, float]]:
    """How far the line is from being one, how much of one it is, and that again for her mood."""
    value = max(-2.0, min(2.0, default_detector().logit(remark.utterance) / _ATTACK_LOGIT))
    yield attack_key(), value
    moods = _texts(remark.state.get("npc_mood", ()))
    yield from ((attack_key(name), max(0.0, value)) for name in (">", *moods))


def attack_key(name: str = "") -> int:
    """Hash of what the shipped detector says of a line, and of that again under a name.

    Every remark has the one without; another detector's are others.
    """
    return _hash(f"attack {default_detector().id}", name)


def _texts(value: StateValue) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [*dict.fromkeys(map(str, value))] if isinstance(value, Sequence) else []


@lru_cache(maxsize=4_096)  # a game's names are few
def _hash(key: str, text: str) -> int:
    return zlib.crc32(f"{key}\0{text}".encode("utf-8", "surrogatepass"))
