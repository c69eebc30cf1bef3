"""Fits what holds lines against decisions (`heads/agreement.py`) on labelled responses."""

from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec
import numpy as np
from scipy.sparse import diags
from sklearn.linear_model import LogisticRegression

from heads.agreement import Agreement, AgreementFile, line_ngrams
from heads.ngrams import HashIndex
from runtime.sentences import Sentences
from train.dataset import DatasetError, TurnLabel
from train.sparse_rows import known_keys, rarity, sparse_rows

INVERSE_PENALTY = 0.1
MAX_WRONG = 0.1
"""Of responses that agree with their decision: how many are taken to contradict it. Of the lines of
a small model that do, this finds about four in five."""
GRANTS, REFUSES = 0, 1


def fit_agreement(train: Sequence[TurnLabel], held_out: Sequence[TurnLabel]) -> AgreementFile:
    """Fit on `train`; thresholds from MAX_WRONG of `held_out`.

    Lines are judged as they are spoken, so each response is learnt from after its first sentence,
    after its second, and so on. Raises DatasetError where one of the two kinds is missing.
    """
    kinds, texts = zip(*_spoken(train), strict=True)
    counted = [line_ngrams(text) for text in texts]
    keys, num_texts = known_keys([hashes for hashes, _ in counted])
    weight = rarity((1 + num_texts) / (1 + len(texts)))
    index = HashIndex(keys)
    features = sparse_rows([index.at_unit_length(*each) for each in counted], len(keys))
    features, found = features @ diags(weight), np.array(kinds)
    models = []
    for kind, name in ((GRANTS, "raises a flag"), (REFUSES, "withholds one")):
        if not 0 < (found == kind).sum() < len(found):
            raise DatasetError(f"no labelled turn, or every one, {name}; label some of both")
        model = LogisticRegression(
            C=INVERSE_PENALTY, solver="liblinear", max_iter=2_000, random_state=0
        )
        models.append(model.fit(features, found == kind))
    weights = np.stack([model.coef_[0] * weight for model in models], axis=1)
    grants, refuses = (round(float(model.intercept_[0]), 4) for model in models)
    file = AgreementFile(
        keys=keys.astype("<u4").tobytes(),
        weights=weights.astype("<f2").tobytes(),
        biases=(grants, refuses),
        thresholds=(1.0, 1.0),
        training={"num_responses": len(train), "max_wrong": MAX_WRONG},
    )
    return _with_thresholds(file, held_out)


def split_sentences(text: str) -> list[str]:
    """The sentences of a line, as serving releases them."""
    sentences = Sentences()
    found = [*sentences.push(text), sentences.finish(is_cut=False)]
    return [sentence for sentence in found if sentence.strip()]


def _spoken(turns: Iterable[TurnLabel]) -> Iterable[tuple[int, str]]:
    """GRANTS, REFUSES or neither (-1), and a response up to each of its sentences."""
    for turn in turns:
        is_raised = any(turn.flag.values())
        if is_raised and turn.withheld:
            continue
        kind = GRANTS if is_raised else REFUSES if turn.withheld else -1
        for text in accumulate(split_sentences(turn.response)):
            yield kind, text


def _with_thresholds(file: AgreementFile, turns: Sequence[TurnLabel]) -> AgreementFile:
    """A response counts by the sentence that scores highest: each is judged as it is spoken."""
    agreement = Agreement(file)
    highest: tuple[list[float], list[float]] = [], []
    for turn in turns:
        is_raised = any(turn.flag.values())
        if is_raised and turn.withheld:
            continue
        kind = REFUSES if is_raised else GRANTS
        spoken = accumulate(split_sentences(turn.response))
        highest[kind].append(max(agreement.scores(text)[kind] for text in spoken))
    grants, refuses = (
        round(float(np.quantile(scores or [1.0], 1 - MAX_WRONG)), 4) for scores in highest
    )
    return msgspec.structs.replace(file, thresholds=(grants, refuses))
