"""What a remark's features are, and which of them an index knows."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heads.clues import ClueIndex, Clues, Features, Remark, attack_key, features_of
from runtime.prompt import STATE_KEYS, StateValue

STATE: dict[str, StateValue] = {
    "quest_stage": "started",
    "location": "pier",
    "trust": 0.25,
    "relationship": -0.5,
    "items": ["map", "ring"],
}


def remark(text: str = "the ring", npc_id: str = "mina", **state: StateValue) -> Remark:
    return Remark(npc_id, text, {**STATE, **state})


def index_of(*remarks: Remark) -> ClueIndex:
    """An index that knows all there is in `remarks`."""
    found = [part for each in map(features_of, remarks) for part in (each.ngrams, each.names)]
    return ClueIndex(np.unique(np.concatenate(found)))


def names_of(found: Features) -> dict[int, float]:
    return dict(zip(found.names.tolist(), found.values.tolist(), strict=True))


def rows(found: Clues) -> dict[int, float]:
    return dict(zip(found.rows.tolist(), found.weights.tolist(), strict=True))


@given(st.text(max_size=60), st.text(max_size=8))
def test_known_ngrams_have_unit_length_whatever_the_text(text: str, npc_id: str) -> None:
    nobody = Remark(npc_id, text, {})
    found = index_of(nobody).find(nobody)
    num_ngrams = len(features_of(nobody).ngrams)
    ngrams = found.weights[:num_ngrams]
    assert len(found.rows) == num_ngrams + len(["her name", "attack", "attack >"])
    assert math.isclose(ngrams @ ngrams, 1 if text.split() else 0, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("text", "same"),
    [("Ｔｈｅ  RING", "the ring"), ("  반지\n주세요 ", "반지 주세요"), ("ＡＢ", "ab")],
)
def test_width_case_and_white_space_make_no_difference(text: str, same: str) -> None:
    assert features_of(remark(text)).ngrams.tolist() == features_of(remark(same)).ngrams.tolist()


def test_ngrams_stay_inside_words_and_know_where_they_begin_and_end() -> None:
    def plain(text: str) -> set[int]:
        found = features_of(Remark("", text, {})).ngrams
        return {*found[: len(found) // 2].tolist()}

    assert plain("ab cd") == plain("ab") | plain("cd") == plain("cd ab")
    assert len(plain("ab") - plain("abc")) == len(["b ", "ab ", " ab "]), "here b ends a word"


def test_what_is_not_known_counts_for_nothing() -> None:
    index = index_of(Remark("mina", "ring", {}))
    known = index.find(Remark("mina", "ring", {}))
    more = index.find(Remark("mina", "ring qqq", {"location": "attic"}))
    assert sorted(more.rows) == sorted(known.rows)
    ngrams, npc = np.split(more.weights, [-3])[0], more.weights[-3]
    assert npc == 1
    assert math.isclose(np.square(ngrams).sum(), 1, rel_tol=1e-5)
    nothing = ClueIndex(np.zeros(0, np.uint32)).find(remark())
    assert (len(nothing.rows), len(nothing.weights)) == (0, 0)


def test_an_index_finds_the_rows_of_its_keys_in_order() -> None:
    keys = np.unique(features_of(remark()).names)
    index = ClueIndex(keys)
    found = index.find(remark())
    names = names_of(features_of(remark()))
    assert {int(keys[row]): weight for row, weight in rows(found).items()} == pytest.approx(names)


def test_every_npc_has_features_of_her_own_beside_those_that_all_share() -> None:
    mina, dora = (features_of(remark(npc_id=name)) for name in ("mina", "dora"))
    shared = set(mina.ngrams.tolist()) & set(dora.ngrams.tolist())
    assert len(shared) == len(mina.ngrams) // 2
    other = names_of(mina).keys() ^ names_of(dora).keys()
    assert len(other) == 2 * (1 + len(["quest_stage", "map", "ring"]))


def test_npcs_whose_ids_are_nearly_alike_share_no_feature_of_their_own() -> None:
    words = " ".join(f"{a}{b}" for a in "abcdefgh" for b in "abcdefgh")
    one, two = (features_of(Remark(f"guard_{name}", words, {})).ngrams for name in "ab")
    half = len(one) // 2
    assert one[:half].tolist() == two[:half].tolist()
    assert not {*one[half:].tolist()} & {*two[half:].tolist()}


def test_what_is_listed_twice_counts_once() -> None:
    stacked = features_of(remark(items=["map", "ring", "map", "map"]))
    assert names_of(stacked) == names_of(features_of(remark(items=["map", "ring"])))
    assert len(stacked.names) == len({*stacked.names.tolist()})


def test_numbers_count_as_the_prompt_shows_them() -> None:
    assert names_of(features_of(remark(trust=0.397))) == names_of(features_of(remark(trust=0.4)))


def test_a_text_longer_than_players_may_send_is_cut() -> None:
    long = "ab " * 40_000
    assert (
        features_of(remark(long)).logs.tolist() == features_of(remark(long[:2_000])).logs.tolist()
    )


def test_trust_counts_in_steps_and_other_numbers_by_their_size() -> None:
    def changed(**state: float) -> list[float]:
        before, after = (
            names_of(features_of(turn)) for turn in (remark(), remark("the ring", "mina", **state))
        )
        return sorted(after.get(k, 0) - before.get(k, 0) for k in before.keys() | after.keys())

    assert [change for change in changed(trust=0.45) if change] == pytest.approx([0.2, 1, 1])
    assert [change for change in changed(relationship=0.0) if change] == pytest.approx([0.5])


def test_how_much_of_an_attack_a_line_is_counts_and_again_for_her_mood() -> None:
    def names(text: str, mood: str = "gruff") -> dict[int, float]:
        return names_of(features_of(remark(text, npc_mood=mood)))

    threat = "Pay me or I'll break your legs, old man."
    calm, hurt = names("Good evening."), names(threat)
    assert sum(hurt[name] > calm[name] for name in calm) == len(["nearer to one", "one", "gruff"])
    assert sum(hurt[name] == calm[name] for name in calm) == len(calm) - 3
    assert len(names(threat, "wary").keys() - hurt.keys()) == len(["the mood", "an attack in it"])


def test_every_remark_has_the_feature_of_the_detector() -> None:
    for said in (remark(), remark("", npc_mood="gruff"), Remark("", "", {})):
        assert attack_key() in features_of(said).names


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, 10**400, -(10**400)])
def test_a_number_out_of_range_counts_as_the_nearest_in_it(number: float) -> None:
    values = features_of(remark(trust=number)).values
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= 1


def test_state_beside_the_known_keys_counts_for_nothing() -> None:
    assert "weather" not in STATE_KEYS
    a, b = features_of(remark()), features_of(remark(weather="rain"))
    assert names_of(a) == names_of(b)
