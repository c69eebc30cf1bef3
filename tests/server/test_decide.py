from functools import partial
from typing import Any

import msgspec
import pytest

from heads.session import Prediction
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from rag.conditions import Facts
from rag.deltas import bounded
from rag.documents import Document, FlagDef, Lang, NpcPersona, TriggerDef
from rag.flags import flag_rule
from rag.scopes import Scene
from rag.world import World
from server.decide import Decision, decide, no_change

SPEC = HeadSpec(
    (DeltaSpec("trust"), DeltaSpec("relationship", -0.5, 0.5)),
    (FlagSpec("give_item", 0.6), FlagSpec("npc_main_story")),
)
FACTS = Facts(Scene("mina", "started", "pier"))
PERSONA = NpcPersona(id="p", npc_id="mina", name="Mina", persona="…", style="…")
GIVE = FlagDef(
    id="f", npc_id="mina", flag_name="give_item", value="pearl", text={"ko": "진주", "en": "Pearl"}
)
STORY = FlagDef(id="s", flag_name="npc_main_story")


def decided(
    *documents: Document,
    delta: tuple[float, float] = (0.0, 0.0),
    scores: tuple[float, float] = (0.0, 0.0),
    lang: Lang = "ko",
    facts: Facts = FACTS,
) -> Decision:
    prediction = Prediction(
        dict(zip(("trust", "relationship"), delta, strict=True)),
        dict(zip(("give_item", "npc_main_story"), scores, strict=True)),
    )
    world = World([PERSONA, *documents])
    trigger = world.trigger_def(facts.scene)
    policies = trigger.delta_policy if trigger else {}
    return decide(prediction, SPEC, policies, partial(flag_rule, world, facts), lang)


def policies(**parts: Any) -> TriggerDef:
    return msgspec.convert(
        {"id": "t", "type": "trigger_def", "npc_id": "mina", **parts}, TriggerDef
    )


@pytest.mark.parametrize(
    ("policy", "predicted", "expected"),
    [
        ({}, 0.9, 0.9),
        ({"max": 0.3}, 0.9, 0.3),
        ({"min": 0.0}, -0.9, 0.0),
        ({"per_turn_cap": 0.25}, 0.9, 0.25),
        ({"per_turn_cap": 0.25}, -0.9, -0.25),
        ({"max": 0.1, "per_turn_cap": 0.25}, 0.9, 0.1),
        ({"per_turn_cap": 0.0}, 0.9, 0.0),
    ],
)
def test_a_delta_stays_inside_the_worlds_policy(
    policy: dict[str, float], predicted: float, expected: float
) -> None:
    decision = decided(policies(delta_policy={"trust": policy}), delta=(predicted, 0.2))
    assert decision.delta == {"trust": expected, "relationship": 0.2}


def test_a_delta_stays_inside_its_heads_range() -> None:
    assert decided(delta=(1.0, -1.0)).delta == {"trust": 1.0, "relationship": -0.5}


def test_deltas_have_three_decimals_and_never_a_negative_zero() -> None:
    decision = decided(delta=(0.12349, -0.0001))
    assert decision.delta["trust"] == 0.123
    assert str(decision.delta["relationship"]) == "0.0"
    assert str(bounded(-0.0, SPEC.delta[0])) == "0.0"


@pytest.mark.parametrize(("score", "is_raised"), [(0.5999, False), (0.6, True), (0.99, True)])
def test_a_flag_is_raised_from_the_manifests_threshold_on(score: float, is_raised: bool) -> None:
    decision = decided(GIVE, scores=(score, 0.0))
    assert decision.flags == {"give_item": is_raised, "npc_main_story": False}
    detail = decision.details["give_item"]
    assert (detail.score, detail.threshold) == (score, 0.6)


def test_the_documents_threshold_goes_before_the_manifests() -> None:
    strict = msgspec.structs.replace(GIVE, threshold=0.95)
    free = msgspec.structs.replace(GIVE, threshold=0.0)
    assert not decided(strict, scores=(0.9, 0)).flags["give_item"]
    assert decided(free, scores=(0.1, 0)).flags["give_item"]
    assert decided(strict, scores=(0.9, 0)).details["give_item"].threshold == 0.95


@pytest.mark.parametrize(
    ("policy", "held_back"),
    [
        ({}, None),
        ({"allowed": ["give_item"]}, None),
        ({"allowed": ["npc_main_story"]}, "flag_policy"),
        ({"forbidden": ["give_item"]}, "flag_policy"),
        ({"allowed": ["give_item"], "forbidden": ["give_item"]}, "flag_policy"),
        ({"forbidden": ["npc_main_story"]}, None),
    ],
)
def test_the_worlds_flag_policy_holds_a_flag_back_and_says_so(
    policy: dict[str, list[str]], held_back: str | None
) -> None:
    decision = decided(GIVE, policies(flag_policy=policy), scores=(0.9, 0.0))
    assert decision.flags["give_item"] is (held_back is None)
    detail = decision.details["give_item"]
    assert detail.held_back == held_back
    assert (detail.value is None) is (held_back is not None)


def test_a_flag_that_the_world_does_not_define_here_is_held_back() -> None:
    decision = decided(scores=(0.9, 0.1))
    assert decision.flags == {"give_item": False, "npc_main_story": False}
    assert decision.details["give_item"].held_back == "no_flag_def"
    assert decision.details["npc_main_story"].held_back is None


def test_a_policy_of_another_stage_has_no_say() -> None:
    elsewhere = policies(quest_stage="over", flag_policy={"forbidden": ["give_item"]})
    assert decided(GIVE, elsewhere, scores=(0.9, 0.0)).flags["give_item"]


@pytest.mark.parametrize(("lang", "text"), [("ko", "진주"), ("en", "Pearl")])
def test_a_raised_flag_brings_its_value_and_text_in_the_language(lang: Lang, text: str) -> None:
    detail = decided(GIVE, scores=(0.9, 0.0), lang=lang).details["give_item"]
    assert (detail.value, detail.text) == ("pearl", text)


def test_a_flag_that_is_not_raised_brings_neither() -> None:
    detail = decided(GIVE, scores=(0.1, 0.0)).details["give_item"]
    assert (detail.value, detail.text, detail.held_back) == (None, None, None)


def test_the_state_block_says_what_was_decided_not_what_was_predicted() -> None:
    rule = policies(delta_policy={"trust": {"max": 0.0}}, flag_policy={"forbidden": ["give_item"]})
    held = decided(GIVE, STORY, rule, delta=(0.9, 0.2), scores=(0.9, 0.9))
    assert held.words() == "trust== relationship=+ npc_main_story"
    free = decided(GIVE, STORY, delta=(0.9, -0.2), scores=(0.9, 0.1))
    assert free.words() == 'trust=++ relationship=- give_item="pearl"'
    assert free.words(with_values=False) == "trust=++ relationship=- give_item"


def test_a_fallback_changes_nothing_and_names_everything() -> None:
    decision = no_change(SPEC)
    assert decision.delta == {"trust": 0.0, "relationship": 0.0}
    assert decision.flags == {"give_item": False, "npc_main_story": False}
    assert decision.details == {}
