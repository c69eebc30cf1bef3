"""What the world says of a flag at one moment: what it would mean, and whether it may be raised."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from rag.conditions import Facts, Unmet, unmet
from rag.documents import Conditions, FlagDef, FlagPolicy
from rag.world import World

HeldBack: TypeAlias = Literal["flag_policy", "no_flag_def", "conditions"]
Nearest: TypeAlias = Callable[[Sequence[str]], float]
"""The cosine of what was said to the nearest of a document's texts; -1 for none."""


@dataclass(frozen=True, slots=True)
class FlagRule:
    """The flag_def that applies (the nearest to applying if none does); why it is held back."""

    document: FlagDef | None
    held_back: HeldBack | None = None
    unmet: list[Unmet] = field(default_factory=list)
    is_by_meaning: bool = False
    """Whether the document was found by what was said, for want of one for the scene."""

    def threshold(self, default: float) -> float:
        """The score that the flag needs: the document's own, or `default`."""
        own = self.document.threshold if self.document else None
        return default if own is None else own


def flag_rule(
    world: World, facts: Facts, flag_name: str, nearest: Nearest | None = None
) -> FlagRule:
    """Of the alternatives at the scene, the first whose conditions hold, and the policy's word.

    At a stage that the NPC's documents do not know, `nearest` finds what the flag means by the
    examples of its documents; at a known stage their scopes are the author's word.
    """
    alternatives: list[tuple[FlagDef, list[Unmet]]] = []
    for document in world.flag_defs(facts.scene, flag_name):
        gaps = unmet(document.conditions, facts) if document.conditions else []
        alternatives.append((document, gaps))
        if not gaps:
            break
    is_by_meaning = False
    if not alternatives and nearest and not world.knows_stage(facts.scene):
        alternatives = _by_meaning(world, facts, flag_name, nearest)
        is_by_meaning = True
    if not alternatives:
        return FlagRule(None, "no_flag_def")
    document, gaps = min(alternatives, key=lambda pair: len(pair[1]))
    trigger = world.trigger_def(facts.scene)
    policy = trigger.flag_policy if trigger else FlagPolicy()
    if not policy.allows(flag_name):
        return FlagRule(document, "flag_policy", is_by_meaning=is_by_meaning)
    return FlagRule(document, "conditions" if gaps else None, gaps, is_by_meaning)


def _by_meaning(
    world: World, facts: Facts, flag_name: str, nearest: Nearest
) -> list[tuple[FlagDef, list[Unmet]]]:
    """The NPC's documents for the flag that hold and that the words speak for, nearest first."""
    found = []
    for document in world.all_flag_defs(facts.scene.npc_id, flag_name):
        if unmet(document.conditions or Conditions(), facts):
            continue
        good = nearest(document.examples_positive)
        if good > nearest(document.examples_negative):
            found.append((good, document))
    found.sort(key=lambda pair: -pair[0])
    return [(document, []) for _, document in found[:1]]
