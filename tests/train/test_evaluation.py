from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    roc_auc_score,
    root_mean_squared_error,
)

from rag.documents import FlagDef
from rag.world import World
from tests.train.predictions import noisy, predict, turns
from tests.train.turns import WORLD, label
from train.bootstrap import Estimate
from train.dataset import DatasetError
from train.evaluation import Evaluation, Figures, evaluate
from train.flag_figures import calibration_error, reliability
from train.headline import Headline, headline
from train.metrics import pairs_right
from train.predicted import Predicted, needed_scores

HEADLINES = Headline.__struct_fields__


def whole(predicted: Predicted) -> Figures:
    return evaluate(predicted).figures.whole


def values(figures: Headline) -> dict[str, float | None]:
    return {name: getattr(figures, name).value for name in HEADLINES}


def known(estimate: Estimate) -> tuple[float, float, float]:
    assert estimate.value is not None
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.low, estimate.value, estimate.high


def test_a_perfect_predictor_is_right_in_everything() -> None:
    found = whole(predict(turns([[1, 0], [0, 1], [0, 0]], [[0.5], [-0.5], [0.0]])))
    flag, delta = found.flags["a"], found.deltas.pooled
    assert (flag.precision, flag.recall, flag.f1, flag.auroc, flag.auprc) == (1, 1, 1, 1, 1)
    assert (flag.ece, delta.mae, delta.rmse, delta.r2, delta.sign_accuracy) == (0, 0, 0, 1, 1)
    assert known(found.headline.macro_f1) == (1, 1, 1)
    assert found.headline.micro_f1.value == found.headline.sign_accuracy.value == 1
    assert found.headline.ece.value == found.headline.delta_mae.value == 0


def test_flag_figures_are_what_their_names_say() -> None:
    labelled = turns([[1, 0], [1, 0], [0, 1], [0, 0]])
    scores = [[0.9, 0.2], [0.4, 0.6], [0.8, 0.7], [0.1, 0.3]]
    found = whole(predict(labelled, scores))
    a, b = found.flags["a"], found.flags["b"]
    assert (a.support, a.num_raised, a.threshold) == (2, 2, 0.5)
    assert (a.precision, a.recall, a.f1) == (0.5, 0.5, 0.5)
    assert a.auroc == 0.75, "of the four pairs of a yes and a no, three are in order"
    assert a.auprc == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert b.f1 == pytest.approx(2 / 3)
    assert found.headline.macro_f1.value == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert found.headline.micro_f1.value == pytest.approx(2 * 2 / (3 + 4))


def test_a_score_at_its_threshold_is_raised() -> None:
    assert whole(predict(turns([[1], [0]]), [[0.7], [0.6]], threshold=0.7)).flags["a"].f1 == 1


def test_a_constant_predictor_has_no_skill() -> None:
    labelled = turns([[1], [0], [0], [0]], [[0.4], [0.0], [-0.2], [0.2]])
    found = whole(predict(labelled, [[0.3]] * 4, [[0.1]] * 4))
    flag, delta = found.flags["a"], found.deltas.pooled
    assert (flag.precision, flag.recall, flag.f1) == (None, 0, 0)
    assert (flag.auroc, flag.auprc) == (0.5, 0.25)
    assert flag.ece == pytest.approx(0.05)
    assert delta.r2 == pytest.approx(0), "it says the mean"
    assert (delta.sign_accuracy_rising, delta.sign_accuracy_falling) == (1, 0)


@pytest.mark.parametrize("value", [0, 1])
def test_a_flag_of_one_class_has_no_area_under_its_roc_curve(value: int) -> None:
    found = evaluate(predict(turns([[value], [value]]), [[0.9], [0.2]]))
    flag = found.figures.whole.flags["a"]
    assert flag.auroc is None
    assert flag.auprc == (1 if value else None)
    assert flag.precision == value
    assert flag.recall == (0.5 if value else None)
    assert flag.f1 == (2 / 3 if value else None)
    assert list(found.curves) == (["a"] if value else [])


def test_a_flag_that_never_occurs_is_left_to_micro_f1_and_precision() -> None:
    found = whole(predict(turns([[1, 0], [0, 0]]), [[0.9, 0.9], [0.1, 0.1]]))
    assert found.headline.macro_f1.value == 1
    assert found.headline.micro_f1.value == pytest.approx(2 / 3)
    assert found.flags["b"].precision == 0


def test_without_any_flag_there_is_no_f1() -> None:
    found = whole(predict(turns([[0], [0]]))).headline
    assert found.macro_f1 == found.micro_f1 == Estimate(None)


def test_what_the_rules_hold_back_counts_as_not_raised() -> None:
    labelled = turns([[1, 1], [0, 1], [0, 0]])
    scores = [[0.9, 0.9], [0.9, 0.9], [0.1, 0.1]]
    held_back = [[False, False], [True, True], [True, False]]
    found = whole(predict(labelled, scores, held_back=held_back))
    assert (found.flags["a"].f1, found.flags["a"].f1_ruled) == (2 / 3, 1)
    assert (found.flags["b"].f1, found.flags["b"].f1_ruled) == (1, 2 / 3)
    assert found.headline.macro_f1_ruled.value == pytest.approx((1 + 2 / 3) / 2)
    assert found.headline.micro_f1_ruled.value == pytest.approx(2 * 2 / (3 + 2))
    assert found.headline.micro_f1.value == pytest.approx(2 * 3 / (3 + 4))


def test_delta_figures_are_what_their_names_say() -> None:
    labels = [[0.5, 0.1], [-0.3, 0.0], [0.05, -0.1]]
    said = [[0.2, -0.1], [-0.05, 0.1], [0.05, -0.3]]
    found = whole(predict(turns([[0]] * 3, labels), delta=said))
    x, y, pooled = found.deltas.by_name["x"], found.deltas.by_name["y"], found.deltas.pooled
    assert x.mae == pytest.approx(0.55 / 3)
    assert x.rmse == pytest.approx(((0.09 + 0.0625) / 3) ** 0.5)
    assert (x.sign_accuracy, y.sign_accuracy) == (1, 0.5)
    assert (y.sign_accuracy_falling, y.sign_accuracy_rising) == (1, 0)
    assert x.directions["falls"] == {"falls": 0, "flat": 1, "rises": 0}
    assert y.directions == {
        "falls": {"falls": 1, "flat": 0, "rises": 0},
        "flat": {"falls": 0, "flat": 0, "rises": 1},
        "rises": {"falls": 1, "flat": 0, "rises": 0},
    }
    assert pooled.mae == pytest.approx((x.mae + y.mae) / 2)
    assert pooled.sign_accuracy == found.headline.sign_accuracy.value == 0.75
    assert pooled.mae == pytest.approx(found.headline.delta_mae.value)


def test_labels_without_direction_or_spread_have_no_sign_accuracy_and_no_r2() -> None:
    found = whole(predict(turns([[0], [0]], [[0.05], [0.05]]), delta=[[0.5], [-0.5]]))
    assert found.deltas.pooled.r2 is None
    assert found.deltas.pooled.sign_accuracy is None
    assert found.headline.sign_accuracy == Estimate(None)


def test_figures_agree_with_scikit_learn() -> None:
    predicted = noisy(300)
    found = whole(predicted)
    labels, raised = predicted.true_flag, predicted.raised
    assert found.headline.macro_f1.value == pytest.approx(f1_score(labels, raised, average="macro"))
    assert found.headline.micro_f1.value == pytest.approx(f1_score(labels, raised, average="micro"))
    for i, flag in enumerate(found.flags.values()):
        assert flag.precision == pytest.approx(precision_score(labels[:, i], raised[:, i]))
        assert flag.recall == pytest.approx(recall_score(labels[:, i], raised[:, i]))
        assert flag.f1 == pytest.approx(f1_score(labels[:, i], raised[:, i]))
        assert flag.f1_ruled == pytest.approx(f1_score(labels[:, i], predicted.ruled[:, i]))
        assert flag.auroc == roc_auc_score(labels[:, i], predicted.scores[:, i])
        assert flag.auprc == average_precision_score(labels[:, i], predicted.scores[:, i])
    for i, delta in enumerate(found.deltas.by_name.values()):
        pair = predicted.true_delta[:, i], predicted.delta[:, i]
        assert delta.mae == pytest.approx(mean_absolute_error(*pair))
        assert delta.rmse == pytest.approx(root_mean_squared_error(*pair))
        assert delta.r2 == pytest.approx(r2_score(*pair))


def test_the_area_under_a_curves_steps_is_the_average_precision() -> None:
    found = evaluate(noisy(200))
    for name, flag in found.figures.whole.flags.items():
        recall = [0.0, *(point.x for point in found.curves[name])]
        area = sum(
            width * point.y
            for width, point in zip(np.diff(recall), found.curves[name], strict=True)
        )
        assert area == pytest.approx(flag.auprc, abs=1e-3)


def test_calibrated_scores_have_hardly_any_calibration_error() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    assert calibration_error(reliability(scores, rng.random(20_000) < scores)) < 0.02


def test_overconfident_scores_err_by_how_much_too_sure_they_are() -> None:
    scores, labels = np.array([0.95] * 10 + [0.05] * 10), np.array([1] * 7 + [0] * 11 + [1] * 2)
    bins = reliability(scores, labels.astype(bool))
    assert [(each.count, each.accuracy) for each in bins] == [(10, 0.2), (10, 0.7)]
    assert [each.confidence for each in bins] == pytest.approx([0.05, 0.95])
    assert calibration_error(bins) == pytest.approx((0.15 + 0.25) / 2)


def test_bins_are_fifteenths_closed_above() -> None:
    scores = np.array([0.01, 0.2, 0.066, 0.067, 0.13])
    bins = reliability(scores, scores > 1)
    assert [each.count for each in bins] == [2, 2, 1]
    assert bins[1].confidence == pytest.approx((0.067 + 0.13) / 2)


def test_the_first_and_the_last_bin_hold_certainty() -> None:
    bins = reliability(np.array([0.0, 1.0]), np.array([False, True]))
    assert [each.confidence for each in bins] == [0, 1]


def test_all_ways_to_the_calibration_error_agree() -> None:
    found = whole(noisy(100))
    assert found.headline.ece.value == pytest.approx(calibration_error(found.bins))
    assert sum(each.count for each in found.bins) == 300


@pytest.mark.parametrize("name", HEADLINES)
def test_an_interval_holds_its_value_and_narrows_with_more_turns(name: str) -> None:
    few, many = (known(getattr(headline(in_pairs(num)), name)) for num in (60, 800))
    for low, value, high in (few, many):
        assert low < value < high
    assert many[2] - many[0] < 0.5 * (few[2] - few[0])


def test_the_interval_of_a_mean_is_that_of_the_central_limit_theorem() -> None:
    predicted = noisy(400)
    errors = np.abs(predicted.delta - predicted.true_delta).mean(axis=1)
    low, value, high = known(headline(predicted).delta_mae)
    margin = 1.96 * errors.std() / 20
    assert value - low == pytest.approx(margin, rel=0.1)
    assert high - value == pytest.approx(margin, rel=0.1)


def test_turns_of_one_split_group_are_drawn_together() -> None:
    alone = noisy(60)
    five = alone.select(np.repeat(np.arange(60), 5))
    apart = replace(five, turns=turns(five.true_flag, five.true_delta))
    assert known(headline(five).delta_mae) == pytest.approx(known(headline(alone).delta_mae))
    low, _, high = known(headline(alone).delta_mae)
    narrow_low, _, narrow_high = known(headline(apart).delta_mae)
    assert narrow_high - narrow_low < 0.6 * (high - low)


def test_an_interval_comes_out_the_same_again() -> None:
    assert headline(noisy(40)) == headline(noisy(40))


def in_pairs(num: int) -> Predicted:
    """Two turns in a row say the same and are of one group."""
    twos = [f"{n // 2}" for n in range(num)]
    return noisy(num, player_utterance=twos, split_group=twos)


def test_one_split_group_alone_has_no_interval() -> None:
    found = headline(noisy(20, split_group=["g"] * 20)).delta_mae
    assert found.value is not None
    assert (found.low, found.high) == (None, None)


def pair(*, second_is_right: bool = True) -> Predicted:
    """Turns 0 and 1 differ in a, for the same words; turn 2 says something else."""
    labelled = turns(
        [[1, 0], [0, 0], [1, 1]],
        player_utterance=["Give it", "give  it", "Hello"],
        split_group=["p", "p", "q"],
    )
    second = 0.1 if second_is_right else 0.9
    return predict(labelled, [[0.9, 0.9], [second, 0.1], [0.1, 0.1]])


def test_a_pair_is_right_if_both_its_turns_are_in_the_flags_that_differ() -> None:
    assert headline(pair()).pairs_right.value == 1, "b, wrongly raised, is not what differs"
    wrong = pair(second_is_right=False)
    assert headline(wrong).pairs_right.value == 0
    ruled = replace(wrong, needed=np.array([[0.5, 0.5], [np.inf, 0.5], [0.5, 0.5]]))
    assert headline(ruled).pairs_right.value == 0
    assert headline(ruled).pairs_right_ruled.value == 1


def test_a_documents_own_threshold_counts_under_the_rules_as_in_serving() -> None:
    gives = FlagDef(id="f", npc_id="mina", flag_name="give_item", value="gold", threshold=0.9)
    world = World([gives, *WORLD.npcs.values()])
    names = ("give_item", "quest_stage_change")
    needed = needed_scores([label()], names, np.array([0.5, 0.5]), world)
    assert needed.tolist() == [[0.9, np.inf]], "no document, no flag"
    (default,) = needed_scores([label()], names[:1], np.array([0.4]), WORLD)
    assert default.tolist() == [0.4]


def test_a_pair_is_judged_by_the_flags_that_are_decided() -> None:
    wrong = pair(second_is_right=False)
    assert pairs_right(wrong.turns, wrong.raised[:, 1:], ["b"]) is None
    assert pairs_right(wrong.turns, wrong.raised[:, ::-1], ["b", "a"]) == 0


def test_without_pairs_there_is_no_share_of_them() -> None:
    assert headline(noisy(5)).pairs_right == Estimate(None)


def test_each_npc_and_language_is_evaluated_as_if_alone() -> None:
    npcs, langs = ["mina", "rok", "mina", "rok"] * 10, ["ko", "ko", "en", "ko"] * 10
    predicted = noisy(40, npc_id=npcs, lang=langs)
    found = evaluate(predicted).figures
    assert list(found.by_npc) == ["mina", "rok"]
    assert list(found.by_lang) == ["en", "ko"]
    assert found.by_lang["en"].num_turns == 10
    minas = np.array([n for n, npc in enumerate(npcs) if npc == "mina"])
    assert found.by_npc["mina"] == whole(predicted.select(minas))


def test_columns_go_by_name() -> None:
    predicted = noisy(50)
    turned = replace(
        predicted,
        flag_names=predicted.flag_names[::-1],
        delta_names=predicted.delta_names[::-1],
        scores=predicted.scores[:, ::-1],
        needed=predicted.needed[:, ::-1],
        delta=predicted.delta[:, ::-1],
    )
    assert whole(turned).flags == whole(predicted).flags
    assert whole(turned).deltas.by_name == whole(predicted).deltas.by_name
    assert values(headline(turned)) == pytest.approx(values(headline(predicted)), nan_ok=True)


def test_what_cannot_be_evaluated_is_told() -> None:
    good = noisy(3)
    with pytest.raises(DatasetError, match="no turn to evaluate"):
        replace(good, turns=[])
    with pytest.raises(DatasetError, match="labels no flag 'dance', which the bundle decides"):
        replace(good, flag_names=("a", "b", "dance"))
    with pytest.raises(DatasetError, match="labels no delta 'fear'"):
        replace(good, delta_names=("x", "fear"))
    with pytest.raises(DatasetError, match="decides no delta"):
        replace(good, delta_names=())


def test_an_evaluation_survives_json() -> None:
    found = evaluate(noisy(30, npc_id=["mina", "rok"] * 15))
    assert msgspec.json.decode(msgspec.json.encode(found), type=Evaluation) == found


@given(seed=st.integers(0, 2**32 - 1), num=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_figures_are_in_range_and_the_order_of_turns_does_not_matter(seed: int, num: int) -> None:
    predicted = noisy(num, seed)
    shuffled = predicted.select(np.random.default_rng(seed).permutation(num))
    found = headline(predicted)
    for name in HEADLINES:
        estimate, other = getattr(found, name), getattr(headline(shuffled), name)
        assert (estimate.value is None) == (other.value is None)
        if estimate.value is not None:
            assert estimate.value == pytest.approx(other.value)
            assert 0 <= estimate.value <= (2 if name == "delta_mae" else 1) + 1e-9
        if estimate.low is not None:
            assert estimate.low <= estimate.high
