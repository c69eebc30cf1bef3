"""`persona heads compare`: whether heads with a hidden layer would read more in the states.

Linear heads and multilayer perceptrons are fitted on the same states of training conversations, as
the GGUF of a run makes them, and scored on the validation split. llama.cpp gives the states of the
last layer only, so heads on several layers' states are not among them.
"""

from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

from export.quantise import QuantType
from export.reporter import RichReporter
from heads.bundle import ContextSettings
from rag.world import load_world
from train.bootstrap import NUM_RESAMPLES, Estimate, estimate
from train.dataset import conversations, read_dataset, spread
from train.fit_heads import Array, LinearHeads, Targets, fit, make_targets
from train.heads_files import read_trained_heads
from train.merit import delta_merit, drawn_rows, flag_merit
from train.states import LabelledState, stack
from train.trained import Trained
from train.variants import Variant, Workshop

WIDTHS = (16, 64)
NUM_SEEDS = 3
"""Perceptrons of one width, whose predictions are averaged: one alone is a matter of luck."""
_PENALTY = 3.0
_MAX_TARGET = 0.98


@dataclass(frozen=True, slots=True)
class Shape:
    """One kind of heads, and how well it reads the validation split."""

    name: str
    flag_merit: Estimate
    delta_merit: Estimate


@dataclass(frozen=True, slots=True)
class Labelled:
    """States and their labels."""

    states: list[LabelledState]
    targets: Targets


def compare_shapes(
    trained: Trained, quant: QuantType, num_refit: int, num_threads: int, reporter: RichReporter
) -> list[Shape]:
    """The shapes' merits with 95% bootstrap intervals over split groups, the trained heads first.

    Raises DatasetError, WorldError, EmbedderError or ExportError.
    """
    data = trained.record.config.data
    world = load_world(Path(data.world))
    splits = read_dataset(Path(data.data), ("train", "validation"))
    shop = Workshop(trained, world, ContextSettings(), num_threads, reporter)
    chosen = spread(list(conversations(splits["train"]).values()), num_refit)
    variant = Variant(quant, quant)
    fitted_on = shop.read(variant, shop.write("train", [t for group in chosen for t in group]))
    held_out = shop.read(variant, shop.write("validation", splits["validation"]))
    names = trained.persona.delta_names, trained.persona.flag_names
    return shapes(
        read_trained_heads(trained.adapter),
        Labelled(fitted_on, make_targets(fitted_on, *names)),
        Labelled(held_out, make_targets(held_out, *names)),
    )


def shapes(trained: LinearHeads, given: Labelled, wanted: Labelled) -> list[Shape]:
    """Heads of each shape fitted on `given` and scored on `wanted`, beside `trained` ones."""
    states = stack(wanted.states)
    predictions = {
        "linear, as trained": trained.predict(states),
        "linear, fitted anew": fit(given.states, given.targets)[0].predict(states),
        **{
            f"one hidden layer of {width}, fitted anew": _perceptrons(width, given, states)
            for width in WIDTHS
        },
    }
    return [_scored(name, *found, wanted.targets) for name, found in predictions.items()]


def _perceptrons(width: int, given: Labelled, states: npt.ArrayLike) -> tuple[Array, Array]:
    fitted_on = stack(given.states).astype(np.float64)
    scaler = StandardScaler().fit(fitted_on)
    x, unseen = (scaler.transform(part) for part in (fitted_on, states))
    goals = np.arctanh(np.clip(given.targets.delta, -_MAX_TARGET, _MAX_TARGET))
    deltas, scores = [], []
    options = {"hidden_layer_sizes": (width,), "alpha": _PENALTY, "early_stopping": True}
    with catch_warnings():
        simplefilter("ignore", ConvergenceWarning)
        for seed in range(NUM_SEEDS):
            regressor = MLPRegressor(**options, random_state=seed).fit(x, goals)
            deltas.append(np.tanh(regressor.predict(unseen)))
            classifier = MLPClassifier(**options, random_state=seed).fit(x, given.targets.flag)
            scores.append(classifier.predict_proba(unseen))
    return np.mean(deltas, axis=0), np.mean(scores, axis=0)


def _scored(name: str, delta: Array, scores: Array, wanted: Targets) -> Shape:
    drawn = [*islice(drawn_rows(wanted.groups), NUM_RESAMPLES // 10)]
    flags = np.array([flag_merit(wanted.flag[rows], scores[rows]) for rows in drawn])
    deltas = np.array([delta_merit(wanted.delta[rows], delta[rows]) for rows in drawn])
    return Shape(
        name,
        estimate(flag_merit(wanted.flag, scores), flags),
        estimate(delta_merit(wanted.delta, delta), deltas),
    )
