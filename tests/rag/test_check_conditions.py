"""What may stand between a condition and its exceptions, and where an item may be named."""

from typing import Any

import msgspec
import pytest

from rag.book import Book
from rag.check_conditions import check_conditions
from rag.documents import Document
from rag.loader import Source

PERSONA = {
    "id": "p",
    "type": "npc_persona",
    "name": "Nari",
    "persona": "a seamstress",
    "style": "shy",
    "stages": ["started", "over"],
    "locations": ["home"],
}


def told(*documents: dict[str, Any]) -> list[str]:
    """The keys of all problems of the conditions of a world of these documents and a persona."""
    all_documents = [{"npc_id": "nari", **document} for document in (PERSONA, *documents)]
    book = Book([Source("a.json", msgspec.convert(each, Document)) for each in all_documents])
    return [problem.key for problem in check_conditions(book)]


def trigger(conditions: dict[str, Any]) -> dict[str, Any]:
    return {"id": "t", "type": "trigger_def", "quest_stage": "started", "trigger": conditions}


def mood(*moods: str) -> dict[str, Any]:
    return {"required_npc_state": {"npc_mood": moods}}


def game(**state: Any) -> dict[str, Any]:
    return {"required_game_state": state}


def said(*texts: str) -> dict[str, Any]:
    return {"required_text": texts}


def did(*actions: str, **optional: list[str]) -> dict[str, Any]:
    return {"required_actions": {"mandatory": actions, **optional}}


def trust(value: float) -> dict[str, Any]:
    return {"required_delta": {"mandatory": {"trust": value}}}


@pytest.mark.parametrize(
    ("asked", "excepted"),
    [
        (mood("calm"), mood("calm")),
        (mood("calm"), mood("calm", "shy")),
        ({"required_npc_state": {"npc_mood": "calm"}}, mood("calm")),
        (said("bell"), said("bell", "rope")),
        (trust(0.5), trust(0.3)),
        (did("paid", "bowed"), did("paid")),
        (did("paid"), did(optional=["paid", "bowed"])),
        (did(optional=["paid"]), did(optional=["paid", "bowed"])),
        ({**mood("calm"), **did("paid")}, {**mood("calm"), **did("paid")}),
        ({}, game(quest_stage=["started", "over"])),
        ({**mood("calm"), "unless": [mood("shy")]}, mood("calm")),
    ],
)
def test_an_exception_that_holds_wherever_the_rest_does_is_told(
    asked: dict[str, Any], excepted: dict[str, Any]
) -> None:
    conditions = {**asked, "unless": [*asked.get("unless", []), excepted]}
    assert told(trigger(conditions)) == [f"trigger.unless[{len(conditions['unless']) - 1}]"]


@pytest.mark.parametrize(
    ("asked", "excepted"),
    [
        (mood("calm", "shy"), mood("calm")),
        (game(open=True), game(open=1)),
        ({}, game(location="home")),
        ({}, said("bell")),
        (said("bell", "rope"), said("bell")),
        (trust(0.3), trust(0.5)),
        ({}, trust(0.5)),
        (did("paid"), did("paid", "bowed")),
        (did(optional=["paid", "bowed"]), did(optional=["paid"])),
        (mood("calm"), {**mood("calm"), **did("paid")}),
        (mood("calm"), {**mood("calm"), "unless": [did("paid")]}),
    ],
)
def test_an_exception_that_may_fail_where_the_rest_holds_is_no_problem(
    asked: dict[str, Any], excepted: dict[str, Any]
) -> None:
    assert told(trigger({**asked, "unless": [excepted]})) == []


@pytest.mark.parametrize("asked", [{}, game(open=True), game(open=[])])
def test_an_exception_that_names_no_value_is_only_told_never_to_hold(asked: dict[str, Any]) -> None:
    keys = told(trigger({**asked, "unless": [game(open=[])]}))
    assert "trigger.unless[0].required_game_state.open" in keys
    assert "trigger.unless[0]" not in keys


@pytest.mark.parametrize(
    "text",
    [
        "the golden needle.",
        "golden_needle",
        "GOLDEN needle를 찾아",
        "three golden needles",
        "_Golden\nneedle_",
    ],
)
def test_an_item_in_whole_words_of_a_text_is_known(text: str) -> None:
    lore = {"id": "l", "type": "lore", "content": text}
    assert told(lore, trigger({"required_items": {"mandatory": ["golden_needle"]}})) == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("apple", "Red apples grow here."),
        ("torch", "Two torches; a torchbearer."),
        ("은골무", "은골무를 잃어버렸다"),
        ("목걸이", "금목걸이를 잃어버렸다"),
        ("등_심지", "새 등 심지가 있다"),
    ],
)
def test_a_text_may_have_an_item_in_the_plural_or_in_a_compound(item: str, text: str) -> None:
    lore = {"id": "l", "type": "lore", "content": text}
    assert told(lore, trigger({"required_items": {"mandatory": [item]}})) == []


@pytest.mark.parametrize(
    ("item", "text"),
    [
        ("apple", "A pineapple, an appleseed, apple2."),
        ("ring", "The string broke in spring; a ringlet."),
        ("목거리", "금목걸이를 잃어버렸다"),
        ("lamp_wick", {"ko": "a lamp", "en": "wick"}),
    ],
)
def test_an_item_is_not_known_by_a_part_of_a_word_or_by_two_texts(
    item: str, text: str | dict[str, str]
) -> None:
    lore = {"id": "l", "type": "lore", "content": text}
    conditions = {"required_items": {"mandatory": [item]}}
    assert told(lore, trigger(conditions)) == ["trigger.required_items.mandatory"]


def test_an_item_that_a_document_spells_otherwise_is_not_known_by_a_text() -> None:
    lore = {"id": "l", "type": "lore", "items": ["golden_needle"], "content": "The Golden_Needle"}
    assert told(lore, trigger({"required_items": {"optional": ["Golden_Needle"]}})) == [
        "trigger.required_items.optional"
    ]
