"""From what the heads predict to what the game is told: thresholds, policies, interpretation."""

from dataclasses import dataclass

from heads.session import Prediction
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from rag.documents import DeltaPolicy, FlagDef, FlagPolicy, Lang, localise
from rag.world import Scene, World
from runtime.prompt import format_decision
from server.schemas import FlagDetail


@dataclass(frozen=True, slots=True)
class Decision:
    """What a turn changes, by name; `details` says why for each flag."""

    delta: dict[str, float]
    flags: dict[str, bool]
    details: dict[str, FlagDetail]

    def words(self, *, with_values: bool = True) -> str:
        """The decision as the `<STATE>` block says it."""
        raised = {
            name: detail.value if with_values else None
            for name, detail in self.details.items()
            if self.flags[name]
        }
        return format_decision(self.delta, raised)


def decide(
    prediction: Prediction, spec: HeadSpec, world: World, scene: Scene, lang: Lang
) -> Decision:
    """Apply ranges, thresholds and the world's policies at `scene`."""
    trigger = world.trigger_def(scene)
    delta_policy = trigger.delta_policy if trigger else {}
    flag_policy = trigger.flag_policy if trigger else FlagPolicy()
    delta = {
        head.name: bounded(prediction.delta[head.name], head, delta_policy.get(head.name))
        for head in spec.delta
    }
    details = {
        head.name: _flag_detail(
            prediction.flag_scores[head.name],
            head,
            world.flag_def(scene, head.name),
            flag_policy,
            lang,
        )
        for head in spec.flags
    }
    flags = {
        name: detail.score >= detail.threshold and detail.held_back is None
        for name, detail in details.items()
    }
    return Decision(delta, flags, details)


def no_change(spec: HeadSpec) -> Decision:
    """The decision of a fallback: nothing moves, nothing is raised."""
    return Decision(
        {head.name: 0.0 for head in spec.delta}, {h.name: False for h in spec.flags}, {}
    )


def bounded(value: float, head: DeltaSpec, policy: DeltaPolicy | None = None) -> float:
    """A delta inside the head's range and the world's policy, to three decimals."""
    policy = policy or DeltaPolicy()
    low = max(head.min, policy.min, -policy.per_turn_cap)
    high = min(head.max, policy.max, policy.per_turn_cap)
    return round(max(low, min(high, value)), 3) + 0.0  # no -0.0


def _flag_detail(
    score: float, head: FlagSpec, flag_def: FlagDef | None, policy: FlagPolicy, lang: Lang
) -> FlagDetail:
    has_threshold = flag_def is not None and flag_def.threshold is not None
    threshold = flag_def.threshold if flag_def and has_threshold else head.threshold
    assert threshold is not None, "either the document's or the manifest's"
    score = round(score, 4)
    if score < threshold:
        return FlagDetail(score=score, threshold=threshold)
    if reason := _reason_to_hold_back(head.name, flag_def, policy):
        return FlagDetail(score=score, threshold=threshold, held_back=reason)
    assert flag_def is not None, "an undefined flag is held back"
    text = localise(flag_def.text, lang) or None
    return FlagDetail(score=score, threshold=threshold, value=flag_def.value, text=text)


def _reason_to_hold_back(name: str, flag_def: FlagDef | None, policy: FlagPolicy) -> str | None:
    if name in policy.forbidden or (policy.allowed and name not in policy.allowed):
        return "flag_policy"
    return "no_flag_def" if flag_def is None else None
