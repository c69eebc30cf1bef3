from typing import Any

import msgspec
import pytest

from rag.conditions import Facts, Unmet, unmet
from rag.documents import Conditions, FlagDef, FlagPolicy, NpcPersona, TriggerDef
from rag.flags import flag_rule
from rag.scopes import Scene
from rag.world import World

SCENE = Scene("mina", "started", "pier")
FACTS = Facts(
    SCENE,
    utterance="Where is the Bell?",
    items=["rope", "lamp"],
    actions=["rang_bell"],
    game_state={"tide": "low", "nights": 40, "open": True},
    npc_state={"trust": 0.3, "relationship": -0.2, "npc_mood": "calm"},
    player_state={"reputation": "unknown"},
)


def conditions(**parts: Any) -> Conditions:
    return msgspec.convert(parts, Conditions)


HOLDS: list[dict[str, Any]] = [
    {},
    {"required_text": ["bell", "anchor"]},
    {"required_items": {"mandatory": ["rope", "lamp"]}},
    {"required_items": {"optional": ["sail", "lamp"]}},
    {"required_actions": {"mandatory": ["rang_bell"]}},
    {"required_game_state": {"tide": "low", "nights": 40, "open": True}},
    {"required_game_state": {"quest_stage": ["started", "over"], "location": "pier"}},
    {"required_npc_state": {"npc_mood": ["calm", "happy"]}},
    {"required_player_state": {"reputation": "unknown"}},
    {"required_delta": {"mandatory": {"trust": 0.3, "relationship": -0.5}}},
    {"unless": [{"required_npc_state": {"npc_mood": "hostile"}}]},
    {"unless": [{"required_items": {"mandatory": ["rope", "sail"]}}]},
]

UNMET: list[tuple[dict[str, Any], Unmet]] = [
    (
        {"required_text": ["anchor", "oar"]},
        Unmet("required_text", "anchor | oar", "Where is the Bell?"),
    ),
    (
        {"required_items": {"mandatory": ["rope", "sail", "oar"]}},
        Unmet("required_items.mandatory", "sail, oar", "lamp, rope"),
    ),
    (
        {"required_items": {"optional": ["sail", "oar"]}},
        Unmet("required_items.optional", "sail | oar", "lamp, rope"),
    ),
    (
        {"required_actions": {"mandatory": ["slept"]}},
        Unmet("required_actions.mandatory", "slept", "rang_bell"),
    ),
    ({"required_game_state": {"tide": "high"}}, Unmet("required_game_state.tide", "high", "low")),
    ({"required_game_state": {"wind": "up"}}, Unmet("required_game_state.wind", "up", "nothing")),
    ({"required_game_state": {"open": 1}}, Unmet("required_game_state.open", "1", "true")),
    (
        {"required_game_state": {"quest_stage": "over"}},
        Unmet("required_game_state.quest_stage", "over", "started"),
    ),
    (
        {"required_npc_state": {"npc_mood": ["sad", "happy"]}},
        Unmet("required_npc_state.npc_mood", "sad | happy", "calm"),
    ),
    (
        {"required_player_state": {"reputation": "good"}},
        Unmet("required_player_state.reputation", "good", "unknown"),
    ),
    (
        {"required_delta": {"mandatory": {"trust": 0.31}}},
        Unmet("required_delta.trust", ">= 0.31", "0.3"),
    ),
    (
        {"unless": [{"required_npc_state": {"npc_mood": "calm"}}]},
        Unmet("unless[0]", "not required_npc_state.npc_mood calm", "holds"),
    ),
]


@pytest.mark.parametrize("parts", HOLDS)
def test_what_holds_leaves_nothing_unmet(parts: dict[str, Any]) -> None:
    assert unmet(conditions(**parts), FACTS) == []


@pytest.mark.parametrize(("parts", "gap"), UNMET)
def test_what_does_not_hold_is_told_with_what_was_found(parts: dict[str, Any], gap: Unmet) -> None:
    assert unmet(conditions(**parts), FACTS) == [gap]


def test_everything_unmet_is_told_at_once() -> None:
    merged: dict[str, Any] = {"required_text": ["oar"], "required_items": {"mandatory": ["sail"]}}
    assert len(unmet(conditions(**merged, **UNMET[4][0]), FACTS)) == 3


def test_an_exception_needs_all_of_its_parts() -> None:
    parts = {"required_npc_state": {"npc_mood": "calm"}, "required_items": {"mandatory": ["sail"]}}
    assert unmet(conditions(unless=[parts]), FACTS) == []


def a_flag(name: str, **parts: Any) -> FlagDef:
    return FlagDef(id=name, npc_id="mina", flag_name="give_item", conditions=conditions(**parts))


TRUSTED = a_flag("trusted", required_delta={"mandatory": {"trust": 0.5}})
REWARD = a_flag("reward", required_items={"mandatory": ["pearl"]}, required_text=["take"])
MINA = NpcPersona(id="p", npc_id="mina", name="Mina", persona="…", style="…")


def rule_of(
    *documents: FlagDef | TriggerDef, facts: Facts = FACTS
) -> tuple[str | None, str | None]:
    rule = flag_rule(World([MINA, *documents]), facts, "give_item")
    return rule.document.id if rule.document else None, rule.held_back


def test_of_alternatives_the_first_whose_conditions_hold_applies() -> None:
    open_one, other = a_flag("open"), a_flag("other")
    assert rule_of(TRUSTED, open_one, other) == ("open", None)
    assert rule_of(other, open_one) == ("other", None)


def test_of_alternatives_that_all_fail_the_nearest_is_told() -> None:
    assert rule_of(REWARD, TRUSTED) == ("trusted", "conditions")
    rule = flag_rule(World([MINA, REWARD, TRUSTED]), FACTS, "give_item")
    assert [gap.key for gap in rule.unmet] == ["required_delta.trust"]


def test_a_policy_holds_back_what_conditions_allow() -> None:
    forbidden = TriggerDef(id="t", npc_id="mina", flag_policy=FlagPolicy(forbidden=["give_item"]))
    others = TriggerDef(id="t", npc_id="mina", flag_policy=FlagPolicy(allowed=["npc_action"]))
    for policy in (forbidden, others):
        assert rule_of(a_flag("open"), policy) == ("open", "flag_policy")


def test_a_flag_without_a_document_is_held_back() -> None:
    assert rule_of() == (None, "no_flag_def")
