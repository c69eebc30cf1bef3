"""Whether a turn may take the main path: nothing forbidden said, the world's conditions met."""

from dataclasses import dataclass, field

from heads.spec import HeadSpec
from rag.conditions import Unmet, unmet
from rag.deltas import bounded
from rag.documents import TriggerMeta
from rag.triggers import Fired
from rag.world import World
from server.decide import Decision, no_change
from server.fallback import Reason
from server.turn import AskedTurn


@dataclass(frozen=True, slots=True)
class Closed:
    """Why the main path is closed: `trigger` is the forbidden list that fired, with its `meta`."""

    reason: Reason
    trigger: str | None = None
    meta: TriggerMeta | None = None
    unmet: list[Unmet] = field(default_factory=list)

    def decision(self, spec: HeadSpec) -> Decision:
        """No flag, and the delta that the trigger's document says; zero without one."""
        nothing = no_change(spec)
        if self.meta is None:
            return nothing
        delta = {
            head.name: bounded(self.meta.delta.get(head.name, 0.0), head) for head in spec.delta
        }
        return Decision(delta, nothing.flags, nothing.details)


def check_gate(
    turn: AskedTurn, precheck_passed: bool | None, world: World, fired: Fired | None = None
) -> Closed | None:
    """None where the main path is open.

    A forbidden trigger that `fired` closes it whatever the game server says; then its word goes
    before the world's conditions.
    """
    if fired is not None:
        return Closed(Reason.FORBIDDEN_TRIGGER, fired.document.id, fired.meta)
    if precheck_passed is not None:
        return None if precheck_passed else Closed(Reason.PRECHECK_FAILED)
    trigger = world.trigger_def(turn.scene)
    gaps = unmet(trigger.trigger, turn.facts) if trigger else []
    return Closed(Reason.CONDITIONS_UNMET, unmet=gaps) if gaps else None
