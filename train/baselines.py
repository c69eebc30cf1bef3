"""Classical predictors beside which the heads must be worth their model (docs/data-card.md)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction import DictVectorizer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score

from rag.documents import FlagDef
from rag.embedder import UseEmbedder, Vectors
from rag.world import World
from train.dataset import TurnLabel
from train.fit_heads import Array
from train.metrics import Scores, pairs_right, score
from train.predicted import Flags, needed_scores

Splits = Mapping[str, Sequence[TurnLabel]]

_NGRAMS = (1, 4)
_C = (1.0, 10.0, 100.0)
_ALPHA = (0.3, 1.0, 3.0)
_TRUST_STEPS = np.arange(-0.9, 1.0, 0.1)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A predictor's scores on the test split.

    `ruled` counts flags that the world's policies and conditions hold back as not raised, as
    serving does. `pairs_right` is the share of same-words-different-state pairs with the differing
    flags right in both turns, before and after the world's rules; None if there is no pair.
    """

    name: str
    scores: Scores
    ruled: Scores
    pairs_right: float | None
    pairs_right_ruled: float | None


@dataclass(frozen=True, slots=True)
class Predictions:
    """`delta` [n, n_delta] and flag `scores` [n, n_flags] of one split."""

    delta: Array
    scores: Array


def run_baselines(splits: Splits, world: World) -> list[Baseline]:
    """Fit on `train`, choose penalties and thresholds on `validation`, score on `test`.

    majority: the median delta, each flag's more frequent value. utterance: TF-IDF of character
    n-grams, logistic regressions and ridge. utterance and state: the same with state features.
    similarity: nearness of Universal Sentence Encoder vectors to the flag_defs' examples.
    """
    flag_names = list(splits["train"][0].flag)
    labels = {name: _labels(turns) for name, turns in splits.items()}
    results = []
    for name, predict in (
        ("majority", _majority),
        ("utterance", _on_words),
        ("utterance and state", _on_words_and_state),
        ("similarity", _by_similarity),
    ):
        predicted = predict(splits, labels, world)
        thresholds = [
            _best_threshold(labels["validation"][1][:, i], predicted["validation"].scores[:, i])
            for i in range(len(flag_names))
        ]
        raised = predicted["test"].scores >= np.array(thresholds)
        results.append(_evaluate(name, predicted["test"].delta, raised, splits["test"], world))
    return results


def _evaluate(
    name: str, delta: Array, raised: Flags, turns: Sequence[TurnLabel], world: World
) -> Baseline:
    true_delta, true_flag = _labels(turns)
    flag_names = list(turns[0].flag)
    needed = needed_scores(turns, flag_names, np.zeros(len(flag_names)), world)
    ruled = raised & np.isfinite(needed)  # a document's threshold is for the heads' scores
    return Baseline(
        name,
        score(delta, raised, true_delta, true_flag, flag_names),
        score(delta, ruled, true_delta, true_flag, flag_names),
        pairs_right(turns, raised, flag_names),
        pairs_right(turns, ruled, flag_names),
    )


def _labels(turns: Sequence[TurnLabel]) -> tuple[Array, Array]:
    delta = np.array([[*turn.delta.values()] for turn in turns], np.float64)
    return delta, np.array([[*turn.flag.values()] for turn in turns], np.float64)


Labels = Mapping[str, tuple[Array, Array]]
Features = Mapping[str, csr_matrix]


def _majority(splits: Splits, labels: Labels, _: World) -> dict[str, Predictions]:
    delta, flag = labels["train"]
    return {
        name: Predictions(
            np.tile(np.median(delta, axis=0), (len(turns), 1)),
            np.tile((flag.mean(axis=0) >= 0.5).astype(float), (len(turns), 1)),
        )
        for name, turns in splits.items()
    }


def _on_words(splits: Splits, labels: Labels, _: World) -> dict[str, Predictions]:
    return _linear(_words(splits), labels)


def _on_words_and_state(splits: Splits, labels: Labels, _: World) -> dict[str, Predictions]:
    words = _words(splits)
    vectorizer = DictVectorizer().fit([_state(turn) for turn in splits["train"]])
    state = {name: vectorizer.transform(map(_state, turns)) for name, turns in splits.items()}
    return _linear({name: hstack([words[name], state[name]]).tocsr() for name in splits}, labels)


def _words(splits: Splits) -> dict[str, csr_matrix]:
    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=_NGRAMS, sublinear_tf=True)
    vectorizer.fit(turn.player_utterance for turn in splits["train"])
    return {
        name: vectorizer.transform(turn.player_utterance for turn in turns)
        for name, turns in splits.items()
    }


def _state(turn: TurnLabel) -> dict[str, float]:
    """The state as one would give it to a linear model: names one-hot, trust in steps too."""
    tags, player = turn.tags, turn.context.player_state
    names = [
        f"npc={turn.npc_id}",
        f"stage={tags.quest_stage}",
        f"npc={turn.npc_id} stage={tags.quest_stage}",
        f"place={tags.location}",
        f"mood={tags.npc_mood}",
        f"reputation={tags.player_reputation}",
        *(f"item={item}" for item in player.items),
        *(f"npc={turn.npc_id} item={item}" for item in player.items),
        *(f"action={action}" for action in player.actions),
        *(f"trust>={step:.1f}" for step in _TRUST_STEPS if tags.trust >= step - 1e-6),
    ]
    return {**dict.fromkeys(names, 1.0), "trust": tags.trust, "relationship": tags.relationship}


def _linear(features: Features, labels: Labels) -> dict[str, Predictions]:
    """Ridge for deltas and a logistic regression a flag; penalties by validation."""
    train, validation = features["train"], features["validation"]
    ridges = [Ridge(alpha=alpha).fit(train, labels["train"][0]) for alpha in _ALPHA]
    goal = labels["validation"][0]
    ridge = min(ridges, key=lambda model: float(np.abs(model.predict(validation) - goal).mean()))
    models = [
        _logistic(train, labels["train"][1][:, i], validation, labels["validation"][1][:, i])
        for i in range(labels["train"][1].shape[1])
    ]
    return {
        name: Predictions(
            np.clip(ridge.predict(x), -1, 1),
            np.stack([probability(x) for probability in models], axis=1),
        )
        for name, x in features.items()
    }


def _logistic(
    x: csr_matrix, y: Array, x_val: csr_matrix, y_val: Array
) -> Callable[[csr_matrix], Array]:
    """The probability that a flag is raised, of feature rows."""
    if len({*y}) == 1:  # nothing to learn: always, or never
        return lambda rows: np.full(rows.shape[0], y[0])
    models = [
        LogisticRegression(C=c, class_weight="balanced", solver="liblinear").fit(x, y) for c in _C
    ]
    best = min(models, key=lambda model: _log_loss(model.predict_proba(x_val)[:, 1], y_val))
    return lambda rows: np.asarray(best.predict_proba(rows)[:, 1])


def _log_loss(scores: Array, y: Array) -> float:
    p = np.clip(scores, 1e-9, 1 - 1e-9)
    return float(-np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))


def _best_threshold(y: Array, scores: Array) -> float:
    """The score from which on raising gives the highest F1; one half if all are alike."""
    candidates = np.unique(scores)
    if len(candidates) == 1:
        return 0.5
    f1 = [f1_score(y, scores >= candidate, zero_division=0) for candidate in candidates]
    return float(candidates[int(np.argmax(f1))])


def _by_similarity(splits: Splits, labels: Labels, world: World) -> dict[str, Predictions]:
    """Nearest positive example less nearest negative one, of the flag_defs at the turn's scene.

    No training: only the thresholds come from the validation split. Deltas are the majority's.
    """
    texts = {turn.player_utterance for turns in splits.values() for turn in turns}
    for document in world.documents:
        if isinstance(document, FlagDef):
            texts.update(document.examples_positive, document.examples_negative)
    ordered = sorted(texts)
    vectors = dict(zip(ordered, UseEmbedder().encode(ordered), strict=True))
    deltas = _majority(splits, labels, world)
    return {
        name: Predictions(
            deltas[name].delta,
            np.array([_similarities(turn, world, vectors) for turn in turns]),
        )
        for name, turns in splits.items()
    }


def _similarities(turn: TurnLabel, world: World, vectors: Mapping[str, Vectors]) -> list[float]:
    utterance = vectors[turn.player_utterance]

    def nearest(defs: Sequence[FlagDef], side: str) -> float:
        texts = [text for flag_def in defs for text in getattr(flag_def, side)]
        return max((float(utterance @ vectors[text]) for text in texts), default=-1.0)

    found = []
    for flag in turn.flag:
        defs = world.flag_defs(turn.facts.scene, flag)
        gap = nearest(defs, "examples_positive") - nearest(defs, "examples_negative")
        found.append((1 + gap / 2) / 2 if defs else 0.0)
    return found
