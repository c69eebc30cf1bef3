"""What the world says of a flag at one moment: what it would mean, and whether it may be raised."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rag.conditions import Facts, Unmet, unmet
from rag.documents import Conditions, FlagDef, FlagPolicy
from rag.world import World

HeldBack: TypeAlias = Literal["flag_policy", "no_flag_def", "conditions"]


@dataclass(frozen=True, slots=True)
class FlagRule:
    """The flag_def that applies (the nearest to applying if none does); why it is held back."""

    document: FlagDef | None
    held_back: HeldBack | None = None
    unmet: list[Unmet] = field(default_factory=list)


def flag_rule(world: World, facts: Facts, flag_name: str) -> FlagRule:
    """Of the alternatives at the scene, the first whose conditions hold, and the policy's word."""
    alternatives = [
        (document, unmet(document.conditions or Conditions(), facts))
        for document in world.flag_defs(facts.scene, flag_name)
    ]
    if not alternatives:
        return FlagRule(None, "no_flag_def")
    document, gaps = min(alternatives, key=lambda pair: len(pair[1]))
    trigger = world.trigger_def(facts.scene)
    policy = trigger.flag_policy if trigger else FlagPolicy()
    if not policy.allows(flag_name):
        return FlagRule(document, "flag_policy")
    return FlagRule(document, "conditions" if gaps else None, gaps)
