"""Responses that grant, that refuse, and that do neither."""

from typing import Any

from tests.train.turns import label
from train.dataset import TurnLabel

GRANTED = ("Here, take it. It is yours now.", "Take this with you. Keep it dry.")
REFUSED = ("No, never. Not today.", "Not yet, friend. Ask me later.")
CALM = ("The sea is quiet. Gulls again.", "Wind from the north. Mind the ropes.")


def responses_of_each_kind() -> list[TurnLabel]:
    """Twenty of each kind."""
    kinds: list[tuple[tuple[str, str], dict[str, Any]]] = [
        (GRANTED, {"flag": {"give_item": 1, "quest_stage_change": 0}}),
        (REFUSED, {"flag": {"give_item": 0, "quest_stage_change": 0}, "withheld": ["give_item"]}),
        (CALM, {"flag": {"give_item": 0, "quest_stage_change": 0}}),
    ]
    return [
        label(number, response=responses[number % 2], **labels)
        for responses, labels in kinds
        for number in range(20)
    ]
