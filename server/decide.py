"""From what the heads predict to what the game is told: thresholds, policies, interpretation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from heads.session import Prediction
from heads.spec import FlagSpec, HeadSpec
from rag.deltas import bounded
from rag.documents import DeltaPolicy, Lang, localise
from rag.flags import FlagRule
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
    prediction: Prediction,
    spec: HeadSpec,
    policies: Mapping[str, DeltaPolicy],
    rule_of: Callable[[str], FlagRule],
    lang: Lang,
) -> Decision:
    """Apply ranges, thresholds, the world's delta `policies` and its rule of each flag."""
    delta = {
        head.name: bounded(prediction.delta[head.name], head, policies.get(head.name))
        for head in spec.delta
    }
    details = {
        head.name: _flag_detail(
            prediction.flag_scores[head.name],
            head,
            rule_of(head.name),
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


def _flag_detail(score: float, head: FlagSpec, rule: FlagRule, lang: Lang) -> FlagDetail:
    document = rule.document
    threshold = rule.threshold(head.threshold)
    detail = FlagDetail(
        score=round(score, 4),
        threshold=threshold,
        source=document.id if document else None,
        found_by="meaning" if rule.is_by_meaning else "scope",
    )
    if detail.score < threshold:
        return detail
    if rule.held_back:
        return replace(detail, held_back=rule.held_back, unmet=rule.unmet)
    assert document is not None, "an undefined flag is held back"
    text = localise(document.text, lang) or None
    return replace(detail, value=document.value, text=text)
