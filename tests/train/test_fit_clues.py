"""Heads on what was said beside those on states: fitted, weighed, written as a graph."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from heads.bundle import BundleError
from heads.clues import Remark
from heads.session import CLUE_KEYS, HeadsSession
from train.dataset import DatasetError
from train.fit_clues import BlendedHeads, ClueModel, blend, blended_out_of_fold, fit_clues
from train.fit_heads import NUM_FOLDS, LinearHeads, Targets
from train.heads_files import head_spec, heads_graph
from train.merit import delta_merit, flag_merit

N_EMBD = 6
DELTA_NAMES, FLAG_NAMES = ["trust"], ["give_item", "unlock_hidden_path"]
Array = npt.NDArray[np.float64]


def remarks(count: int, seed: int) -> tuple[list[Remark], Targets]:
    """Thanks raise trust; a plea for the ring gives it, at the stage `ready` alone."""
    draw = np.random.default_rng(seed)
    asks, is_ready, thanks = (draw.random((3, count)) < 0.5).astype(int)
    found = [
        Remark(
            "mina",
            f"{('the weather', 'give me that ring')[a]} {('you dolt', 'thanks a lot')[t]}",
            {"quest_stage": ("asked", "ready")[r], "trust": 0.1},
        )
        for a, r, t in zip(asks, is_ready, thanks, strict=True)
    ]
    flag = np.stack([asks * is_ready, np.zeros(count)], axis=1).astype(float)
    delta = (0.4 * thanks - 0.2)[:, np.newaxis]
    groups = np.array([f"g{at % 20}" for at in range(count)])
    return found, Targets(delta, flag, groups, tuple(FLAG_NAMES))


def heads(seed: int = 0) -> LinearHeads:
    draw = np.random.default_rng(seed)
    return LinearHeads(
        mean=np.zeros(N_EMBD),
        scale=np.ones(N_EMBD),
        w_delta=draw.normal(0, 0.3, (N_EMBD, 1)),
        b_delta=np.zeros(1),
        w_flag=draw.normal(0, 1, (N_EMBD, 2)),
        b_flag=np.zeros(2),
        temperature=2.0,
        thresholds=np.full(2, 0.5),
    )


@pytest.fixture(scope="module")
def clues() -> ClueModel:
    return fit_clues(*remarks(200, 0))


@pytest.fixture(scope="module")
def blended(clues: ClueModel) -> BlendedHeads:
    said, targets = remarks(150, 1)
    return blend(heads(), clues, states(150), said, targets)


def states(count: int) -> Array:
    return np.random.default_rng(5).normal(0, 1, (count, N_EMBD)).astype(np.float32)  # type: ignore[return-value]


def test_words_and_state_together_tell_what_happens(clues: ClueModel) -> None:
    said, targets = remarks(100, 2)
    found = clues.predict(said)
    assert flag_merit(targets.flag[:, :1], found[:, 1:2]) > 0.99
    assert np.abs(found[:, :1] - targets.delta).max() < 0.1


def test_a_flag_that_was_never_raised_is_hardly_likely(clues: ClueModel) -> None:
    said, _ = remarks(20, 3)
    assert clues.predict(said)[:, 2].max() < -4


def test_what_is_seen_in_few_turns_is_not_known(clues: ClueModel) -> None:
    said, targets = remarks(200, 0)
    once = [Remark("mina", f"{said[0].utterance} qqq", said[0].state), *said[1:]]
    assert fit_clues(once, targets).keys.tolist() == clues.keys.tolist()


def test_states_that_say_nothing_are_left_aside(blended: BlendedHeads) -> None:
    said, targets = remarks(120, 4)
    delta, scores = blended.predict(states(120), said)
    assert flag_merit(targets.flag[:, :1], scores[:, :1]) > 0.99
    assert delta_merit(targets.delta, delta) > 0.8
    assert abs(blended.delta_share[0]) < 0.2


def test_words_that_say_nothing_are_left_aside(clues: ClueModel) -> None:
    _, targets = remarks(150, 1)
    silent = [Remark("nobody", "", {})] * 150
    given = np.column_stack([targets.delta * 5, targets.flag[:, 0] * 4 - 2, np.zeros((150, 4))])
    wise = heads()
    w_delta, w_flag = np.zeros((N_EMBD, 1)), np.zeros((N_EMBD, 2))
    w_delta[0], w_flag[1, 0] = 0.25, 3
    wise = LinearHeads(
        wise.mean, wise.scale, w_delta, wise.b_delta, w_flag, wise.b_flag, 1.0, wise.thresholds
    )
    found = blend(wise, clues, given, silent, targets)
    delta, scores = found.predict(given, silent)
    assert flag_merit(targets.flag[:, :1], scores[:, :1]) == 1
    assert delta_merit(targets.delta, delta) > 0.8


def test_held_out_turns_are_judged_by_weights_that_did_not_see_them(clues: ClueModel) -> None:
    said, targets = remarks(150, 1)
    delta, scores = blended_out_of_fold(heads(), clues, states(150), said, targets)
    assert flag_merit(targets.flag[:, :1], scores[:, :1]) > 0.99
    assert delta_merit(targets.delta, delta) > 0.8
    few = Targets(targets.delta, targets.flag, np.array(["g", "h"] * 75), targets.flag_names)
    with pytest.raises(DatasetError, match=f"2 split groups .* takes {NUM_FOLDS}"):
        blended_out_of_fold(heads(), clues, states(150), said, few)


def test_the_graph_gives_what_the_blended_heads_predict(
    blended: BlendedHeads, tmp_path: Path
) -> None:
    session = open_graph(blended, tmp_path)
    said, _ = remarks(40, 6)
    said[7] = Remark("nobody", "ﬆrange \ud800 words", {})
    found = session.predict_batch(states(40), said)
    for part, expected in zip(found, blended.predict(states(40), said), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-5)
    one = session.predict(states(40)[7], said[7])
    np.testing.assert_allclose([*one.flag_scores.values()], found[1][7], atol=1e-6)


def open_graph(blended: BlendedHeads, folder: Path, raw: bytes | None = None) -> HeadsSession:
    path = folder / "heads.onnx"
    path.write_bytes(raw or heads_graph(blended))
    return HeadsSession(path, head_spec(blended, DELTA_NAMES, FLAG_NAMES), N_EMBD)


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        (None, "none"),
        ("!!", "base64"),
        ("AAA=", "size"),
        ("", "0 hashes"),
        ("AQAAAAEAAAA=", "order"),
    ],
)
def test_a_graph_whose_keys_are_spoilt_is_refused(
    blended: BlendedHeads, tmp_path: Path, keys: str | None, found: str
) -> None:
    import onnx  # noqa: PLC0415

    graph = onnx.load_from_string(heads_graph(blended))
    del graph.metadata_props[:]
    if keys is not None:
        onnx.helper.set_model_props(graph, {CLUE_KEYS: keys})
    with pytest.raises(BundleError, match=CLUE_KEYS) as caught:
        open_graph(blended, tmp_path, graph.SerializeToString())
    assert found in caught.value.found
