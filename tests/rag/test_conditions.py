from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from rag.conditions import Checked, Facts, Unmet, checked, unmet
from rag.documents import Conditions, FlagDef, FlagPolicy, NpcPersona, TriggerDef
from rag.flags import FlagRule, flag_rule
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


CHECKED: list[tuple[dict[str, Any], Checked]] = [
    (
        {"required_text": ["bell", "oar"]},
        Checked("required_text", "bell | oar", "Where is the Bell?", True),
    ),
    (
        {"required_items": {"mandatory": ["rope", "lamp"]}},
        Checked("required_items.mandatory", "rope, lamp", "lamp, rope", True),
    ),
    (
        {"required_items": {"optional": ["sail", "lamp"]}},
        Checked("required_items.optional", "sail | lamp", "lamp, rope", True),
    ),
    (
        {"required_actions": {"mandatory": ["slept"]}},
        Checked("required_actions.mandatory", "slept", "rang_bell", False),
    ),
    (
        {"required_game_state": {"open": True}},
        Checked("required_game_state.open", "true", "true", True),
    ),
    (
        {"required_delta": {"mandatory": {"trust": 0.3}}},
        Checked("required_delta.trust", ">= 0.3", "0.3", True),
    ),
    (
        {"unless": [{"required_npc_state": {"npc_mood": "sad"}}]},
        Checked("unless[0]", "not required_npc_state.npc_mood sad", "does not hold", True),
    ),
    (
        {"unless": [{"required_npc_state": {"npc_mood": "calm"}}]},
        Checked("unless[0]", "not required_npc_state.npc_mood calm", "holds", False),
    ),
]


@pytest.mark.parametrize(("parts", "check"), CHECKED)
def test_every_condition_is_told_whether_it_holds_or_not(
    parts: dict[str, Any], check: Checked
) -> None:
    assert [*checked(conditions(**parts), FACTS)] == [check]


def test_nothing_that_is_not_asked_for_is_checked() -> None:
    assert [*checked(conditions(), FACTS)] == []


def test_what_is_unmet_is_what_was_checked_and_does_not_hold() -> None:
    parts = {
        "required_text": ["bell"],
        "required_items": {"mandatory": ["sail"], "optional": ["rope"]},
        "required_game_state": {"tide": "low", "wind": "up"},
        "unless": [{"required_npc_state": {"npc_mood": "calm"}}],
    }
    checks = [*checked(conditions(**parts), FACTS)]
    assert [(check.key, check.holds) for check in checks] == [
        ("required_text", True),
        ("required_items.mandatory", False),
        ("required_items.optional", True),
        ("required_game_state.tide", True),
        ("required_game_state.wind", False),
        ("unless[0]", False),
    ]
    told = [Unmet(check.key, check.needed, check.found) for check in checks if not check.holds]
    assert unmet(conditions(**parts), FACTS) == told


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


STAGED = NpcPersona(
    id="p", npc_id="mina", name="Mina", persona="…", style="…", stages=["started", "over"]
)
UNKNOWN_STAGE = Facts(Scene("mina", "a stage of a mod", "pier"), items=["rope"])
SAID = {"Take it.": 0.9, "Have it.": 0.8, "Keep off.": 0.3, "Never.": 0.85}
"""How near what was said is to the examples."""


def meant(name: str, good: str, bad: str = "Keep off.", **keys: Any) -> FlagDef:
    """What the flag means at the stage that NPCs call started."""
    scope = {"npc_id": "mina", "quest_stage": "started"} | keys
    return FlagDef(
        id=name, flag_name="give_item", examples_positive=[good], examples_negative=[bad], **scope
    )


def rule_by_meaning(
    *documents: FlagDef | TriggerDef, facts: Facts = UNKNOWN_STAGE, npc: NpcPersona = STAGED
) -> FlagRule:
    def nearest(texts: Sequence[str]) -> float:
        return max((SAID[text] for text in texts), default=-1.0)

    return flag_rule(World([npc, *documents]), facts, "give_item", nearest)


def test_at_an_unknown_stage_a_flag_means_what_its_examples_say_best() -> None:
    best, second = meant("best", "Take it."), meant("second", "Have it.", quest_stage="over")
    for documents in ([best, second], [second, best]):
        assert rule_by_meaning(*documents) == FlagRule(best, is_by_meaning=True)


def test_at_an_unknown_stage_words_that_speak_against_a_document_rule_it_out() -> None:
    second = meant("second", "Have it.")
    assert rule_by_meaning(meant("best", "Take it.", "Take it."), second).document == second
    assert rule_by_meaning(meant("against", "Have it.", "Never.")) == FlagRule(None, "no_flag_def")
    without = a_flag("without examples")
    staged = msgspec.structs.replace(without, quest_stage="started")
    assert rule_by_meaning(staged) == FlagRule(None, "no_flag_def")


def test_at_an_unknown_stage_conditions_and_policies_hold_all_the_same() -> None:
    best, second = meant("best", "Take it."), meant("second", "Have it.")
    needs_sail = conditions(required_items={"mandatory": ["sail"]})
    assert rule_by_meaning(meant("b", "Take it.", conditions=needs_sail), second).document == second
    needs_rope = conditions(required_items={"mandatory": ["rope"]})
    roped = meant("b", "Take it.", conditions=needs_rope)
    assert rule_by_meaning(roped, second).document == roped
    forbidden = TriggerDef(id="t", npc_id="mina", flag_policy=FlagPolicy(forbidden=["give_item"]))
    assert rule_by_meaning(best, forbidden) == FlagRule(best, "flag_policy", is_by_meaning=True)


def test_at_an_unknown_stage_only_an_npcs_own_documents_and_everybodys_are_asked() -> None:
    shared = meant("shared", "Have it.", npc_id="any")
    assert rule_by_meaning(meant("rook's", "Take it.", npc_id="rook"), shared).document == shared


def test_at_a_known_stage_the_scopes_of_documents_are_the_authors_word() -> None:
    best = meant("best", "Take it.")
    over = Facts(Scene("mina", "over", "pier"))
    assert rule_by_meaning(best, facts=over) == FlagRule(None, "no_flag_def")
    assert rule_by_meaning(best, npc=MINA) == FlagRule(None, "no_flag_def")  # she names no stages
    scoped = meant("scoped", "Have it.", quest_stage="any")
    assert rule_by_meaning(best, scoped) == FlagRule(scoped)


def test_without_an_encoder_an_unknown_stage_has_no_flags() -> None:
    world = World([STAGED, meant("best", "Take it.")])
    assert flag_rule(world, UNKNOWN_STAGE, "give_item") == FlagRule(None, "no_flag_def")
