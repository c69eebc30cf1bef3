"""Fits what holds lines against decisions (`heads/agreement.py`) on labelled responses."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from heads.agreement import LONGEST_NGRAM, Agreement, AgreementFile
from runtime.sentences import Sentences
from train.dataset import DatasetError, TurnLabel
from train.sparse_rows import line_features

INVERSE_PENALTY = 0.1
MAX_WRONG = 0.15
"""Of responses that agree with their decision: how many are taken to contradict it. Of the lines of
a small model that do, this finds more than four in five."""
GRANTS, REFUSES, NEITHER = 0, 1, 2


def fit_agreement(train: Sequence[TurnLabel], held_out: Sequence[TurnLabel]) -> AgreementFile:
    """Fit on `train`; thresholds from MAX_WRONG of `held_out`.

    Lines are judged as they are spoken, so each response is learnt from after its first sentence,
    after its second, and so on. Raises DatasetError where there is too little to learn from, as
    where one of the two kinds is missing.
    """
    spoken = [(kind, text) for kind, texts in _spoken(train) for text in texts]
    found = np.array([kind for kind, _ in spoken])
    for kind, name in ((GRANTS, "raises a flag"), (REFUSES, "withholds one")):
        if not 0 < (found == kind).sum() < len(found):
            raise DatasetError(f"no labelled turn, or every one, {name}; label some of both")
    keys, weight, features = line_features([text for _, text in spoken], LONGEST_NGRAM)
    if not len(keys):
        raise DatasetError("the labelled responses have too little in common; label more turns")
    models = []
    for kind in (GRANTS, REFUSES):
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


def _spoken(turns: Iterable[TurnLabel]) -> Iterator[tuple[int, list[str]]]:
    """What each response does, GRANTS, REFUSES or NEITHER, and it up to each of its sentences.

    Those that do both are left out.
    """
    for turn in turns:
        is_raised = any(turn.flag.values())
        if not (is_raised and turn.withheld):
            kind = GRANTS if is_raised else REFUSES if turn.withheld else NEITHER
            yield kind, [*accumulate(split_sentences(turn.response))]


def _with_thresholds(file: AgreementFile, turns: Sequence[TurnLabel]) -> AgreementFile:
    """A response counts by the sentence that scores highest: each is judged as it is spoken."""
    agreement = Agreement(file)
    highest: tuple[list[float], list[float]] = [], []
    for kind, texts in _spoken(turns):
        contrary = REFUSES if kind == GRANTS else GRANTS
        highest[contrary].append(max(agreement.scores(text)[contrary] for text in texts))
    grants, refuses = (
        round(float(np.quantile(scores or [1.0], 1 - MAX_WRONG)), 4) for scores in highest
    )
    return msgspec.structs.replace(file, thresholds=(grants, refuses))
