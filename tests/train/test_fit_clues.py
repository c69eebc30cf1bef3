"""Heads on what was said beside those on states: fitted, weighed, written as a graph."""

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.bundle import BundleError
from heads.clues import CLUE_FORMAT, Remark
from heads.session import CLUE_FORMAT_KEY, CLUE_KEYS, HeadsSession
from train.dataset import DatasetError
from train.export_run import parts_told_better
from train.fit_clues import (
    BlendedHeads,
    ClueModel,
    HeldOut,
    blend,
    blended_out_of_fold,
    fit_clues,
    least_absolute_errors,
)
from train.fit_heads import NUM_FOLDS, LinearHeads, Targets
from train.heads_files import head_spec, heads_graph
from train.merit import delta_merit, flag_merit, sign_merit

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
    return blend(heads(), clues, HeldOut(states(150), said, targets))


def states(count: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(5).normal(0, 1, (count, N_EMBD)).astype(np.float32)


def test_words_and_state_together_tell_what_happens(clues: ClueModel) -> None:
    said, targets = remarks(100, 2)
    found = clues.predict(said)
    assert flag_merit(targets.flag[:, :1], found[:, 1:2]) > 0.99
    assert sign_merit(targets.delta, found[:, :1]) == 1
    assert np.abs(found[:, :1] - targets.delta).max() < 0.15  # of 0.2; few turns: drawn inwards


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


@given(st.integers(0, 2**32 - 1))
def test_no_other_weights_have_smaller_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    found = least_absolute_errors(x, y)
    assert (found >= 0).all()
    error = np.abs(x @ found - y).mean()
    for other in [*rng.uniform(0, 2, (50, 2)), *np.maximum(0, found + rng.normal(0, 0.1, (50, 2)))]:
        assert error <= np.abs(x @ other - y).mean() + 1e-9


def test_an_outlier_among_the_labels_moves_no_weight() -> None:
    x = np.column_stack([np.linspace(-1, 1, 21), np.zeros(21)])
    y = 0.5 * x[:, 0]
    y[20] = -40
    assert least_absolute_errors(x, y)[0] == pytest.approx(0.5)


def test_words_that_say_nothing_are_left_aside(clues: ClueModel) -> None:
    """Each of these remarks belongs to another turn than its label."""
    said, _ = remarks(400, 7)
    _, targets = remarks(400, 8)
    given = np.column_stack([targets.delta * 5, targets.flag[:, 0] * 4 - 2, np.zeros((400, 4))])
    w_delta, w_flag = np.zeros((N_EMBD, 1)), np.zeros((N_EMBD, 2))
    w_delta[0], w_flag[1, 0] = 0.25, 3
    wise = replace(heads(), w_delta=w_delta, w_flag=w_flag, temperature=1.0)
    found = blend(wise, clues, HeldOut(given, said, targets))
    shares = found.clues.scale / clues.scale
    assert shares[0] < 0.1
    assert shares[1] < 0.2
    assert found.delta_share[0] > 0.8
    _, scores = found.predict(given, said)
    assert flag_merit(targets.flag[:, :1], scores[:, :1]) == 1


@pytest.mark.parametrize("wrong", ["states", "clues"])
def test_what_says_the_contrary_counts_for_nothing_and_shifts_nothing(
    clues: ClueModel, wrong: str
) -> None:
    said, targets = remarks(300, 9)
    given = np.zeros((300, N_EMBD))
    given[:, 0] = (1 - 2 * targets.flag[:, 0]) * (1 if wrong == "states" else -1)
    heads_of = replace(heads(), w_flag=np.eye(N_EMBD, 2) * 2, temperature=1.0)
    told = clues if wrong == "states" else replace(clues, scale=-clues.scale, bias=-clues.bias)
    found = blend(heads_of, told, HeldOut(given, said, targets))
    gains = found.states.w_flag[0, 0], found.clues.scale[1]
    assert gains[wrong == "clues"] == 0
    assert gains[wrong == "states"] != 0
    _, scores = found.predict(given, said)
    assert scores[:, 0].mean() == pytest.approx(targets.flag[:, 0].mean(), abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_that_say_the_same_the_better_is_heard(clues: ClueModel, seed: int) -> None:
    said, targets = remarks(300, 9)
    given = np.zeros((300, N_EMBD))
    told = clues.predict(said)[:, 1]
    given[:, 0] = told + np.random.default_rng(seed).normal(0, 3, 300)
    heads_of = replace(heads(), w_flag=np.eye(N_EMBD, 2), temperature=1.0)
    found = blend(heads_of, clues, HeldOut(given, said, targets))
    assert found.clues.scale[1] > 0


def test_deltas_that_clues_say_nothing_of_stay_as_they_are(clues: ClueModel) -> None:
    said, targets = remarks(150, 1)
    found = blend(heads(), clues.only(["flag"]), HeldOut(states(150), said, targets))
    assert found.delta_share.tolist() == [1]
    delta, _ = found.predict(states(150), said)
    np.testing.assert_allclose(delta, heads().predict(states(150))[0])


def test_turns_with_nothing_in_common_teach_nothing() -> None:
    said, targets = remarks(2, 0)
    with pytest.raises(DatasetError, match="2 turns have nothing in common"):
        fit_clues(said, targets)


def test_a_model_may_be_heard_of_some_parts_alone(clues: ClueModel) -> None:
    said, _ = remarks(9, 3)
    found = clues.only(["flag"]).predict(said)
    assert not found[:, 0].any()
    np.testing.assert_array_equal(found[:, 1:], clues.predict(said)[:, 1:])


def test_held_out_turns_are_judged_by_weights_that_did_not_see_them(
    clues: ClueModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, targets = remarks(150, 1)
    seen: list[set[int]] = []

    def noted(*given: Any) -> BlendedHeads:
        seen.append({id(remark) for remark in given[2].remarks})
        return blend(*given)

    predict = BlendedHeads.predict

    def checked(self: BlendedHeads, states: Array, held_out: list[Remark]) -> object:
        if len(held_out) < 100:  # blend itself looks at those that it is fitted on
            assert not seen[-1] & {id(remark) for remark in held_out}
            judged.update(id(remark) for remark in held_out)
        return predict(self, states, held_out)

    judged: set[int] = set()
    monkeypatch.setattr("train.fit_clues.blend", noted)
    monkeypatch.setattr(BlendedHeads, "predict", checked)
    delta, scores = blended_out_of_fold(heads(), clues, HeldOut(states(150), said, targets))
    assert judged == {id(remark) for remark in said}
    assert flag_merit(targets.flag[:, :1], scores[:, :1]) > 0.99
    assert delta_merit(targets.delta, delta) > 0.8
    few = Targets(targets.delta, targets.flag, np.array(["g", "h"] * 75), targets.flag_names)
    with pytest.raises(DatasetError, match=f"2 split groups .* takes {NUM_FOLDS}"):
        blended_out_of_fold(heads(), clues, HeldOut(states(150), said, few))


def test_a_part_reads_clues_where_they_help_by_more_than_chance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("train.bootstrap.NUM_RESAMPLES", 100)
    draw = np.random.default_rng(0)
    delta = draw.uniform(-1, 1, (300, 2))
    flag = (draw.random((300, 2)) < 0.3).astype(float)
    targets = Targets(delta, flag, np.repeat([f"g{at}" for at in range(30)], 10), tuple(FLAG_NAMES))
    told = delta + draw.normal(0, 0.3, delta.shape), flag + draw.normal(0, 0.6, flag.shape)
    near = delta + draw.normal(0, 0.1, delta.shape), flag + draw.normal(0, 0.3, flag.shape)
    alike = told[0] + draw.normal(0, 1e-3, delta.shape), told[1]
    assert parts_told_better(near, told, targets) == ["delta", "flag"]
    assert parts_told_better((near[0], told[1]), told, targets) == ["delta"]
    assert parts_told_better((told[0], near[1]), told, targets) == ["flag"]
    assert parts_told_better(alike, told, targets) == []
    assert parts_told_better(told, near, targets) == []
    signed = np.where(np.abs(delta) < 0.3, np.copysign(told[0], delta), told[0]), told[1]
    assert parts_told_better(signed, told, targets) == ["delta"]
    coarse = np.sign(delta), told[1]
    assert parts_told_better(coarse, told, targets) == [], "right signs at the cost of the errors"
    one = replace(targets, groups=np.full(300, "g"))
    assert parts_told_better(near, told, one) == [], "a single group tells nothing"


def test_the_graph_gives_what_the_blended_heads_predict(
    blended: BlendedHeads, tmp_path: Path
) -> None:
    session = open_graph(blended, tmp_path)
    said, _ = remarks(40, 6)
    said[7] = Remark("nobody", "ﬆrange \ud800 words", {})
    known = [session.find(remark) for remark in said]
    found = session.predict_batch(states(40), known)
    for part, expected in zip(found, blended.predict(states(40), said), strict=True):
        np.testing.assert_allclose(part, expected, atol=1e-5)
    one = session.predict(states(40)[7], known[7])
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
    raw = with_metadata(blended, {CLUE_KEYS: keys} if keys is not None else {})
    with pytest.raises(BundleError, match=CLUE_KEYS) as caught:
        open_graph(blended, tmp_path, raw)
    assert found in caught.value.found


def with_metadata(blended: BlendedHeads, changes: dict[str, str]) -> bytes:
    """The graph with these keys, or none, in the metadata."""
    graph = onnx.load_from_string(heads_graph(blended))
    del graph.metadata_props[:]
    onnx.helper.set_model_props(graph, {CLUE_FORMAT_KEY: str(CLUE_FORMAT)} | changes)
    return bytes(graph.SerializeToString())


def test_a_graph_of_another_clue_format_is_refused(blended: BlendedHeads, tmp_path: Path) -> None:
    raw = with_metadata(blended, {CLUE_FORMAT_KEY: "0"})
    with pytest.raises(
        BundleError, match=f"expected clues of format {CLUE_FORMAT}, found format 0"
    ):
        open_graph(blended, tmp_path, raw)


@pytest.mark.parametrize("more", [1, -1])
def test_a_graph_with_more_or_fewer_rows_than_keys_is_refused(
    blended: BlendedHeads, tmp_path: Path, more: int
) -> None:
    num_keys = len(blended.clues.keys) + more
    keys = np.arange(num_keys, dtype="<u4").tobytes()
    raw = with_metadata(blended, {CLUE_KEYS: base64.b64encode(keys).decode()})
    with pytest.raises(BundleError, match=f"a table of {num_keys} rows"):
        open_graph(blended, tmp_path, raw)
