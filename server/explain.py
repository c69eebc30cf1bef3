"""Gathers `meta.explain` from what a turn has come to."""

from collections.abc import Mapping

from rag.conditions import checked
from rag.documents import Conditions, DeltaPolicy
from rag.flags import FlagRule, flag_rule
from rag.triggers import TriggerMatcher
from rag.world import World
from runtime.encoder import PromptEncoder
from server.explanation import (
    ExplainedDelta,
    ExplainedFlag,
    ExplainedGate,
    ExplainedNote,
    ExplainedScene,
    ExplainedTrigger,
    Explanation,
)
from server.progress import Progress
from server.turn import AskedTurn
from server.turn_prompt import explain_blocks


def explain(
    progress: Progress, world: World, triggers: TriggerMatcher, encoder: PromptEncoder
) -> Explanation:
    """Every decision of the turn that `progress` holds."""
    decision, prompt = progress.decision, progress.prompt
    return Explanation(
        scene=_scene(progress.turn, world),
        gate=_gate(progress, world, triggers),
        notes=_notes(progress),
        note_threshold=progress.note_threshold,
        prompt=explain_blocks(prompt.segments, encoder) if prompt else [],
        deltas=_deltas(progress, world),
        flags=_flags(progress, world),
        decision=decision.words() if decision else "",
        line=list(progress.sentences),
        asides=dict(progress.line.asides),
    )


def _scene(turn: AskedTurn, world: World) -> ExplainedScene:
    scene = turn.scene
    found = {
        "description": world.description(scene),
        "trigger_def": world.trigger_def(scene),
        "fallback": world.fallback(scene),
        "main_res_validate": world.validate(scene),
    }
    return ExplainedScene(
        scene.npc_id,
        scene.quest_stage,
        scene.location,
        turn.lang,
        world.knows_stage(scene),
        {kind: document.id if document else None for kind, document in found.items()},
    )


def _gate(progress: Progress, world: World, triggers: TriggerMatcher) -> ExplainedGate:
    turn, closed = progress.turn, progress.closed
    hearings = {}
    if progress.heard is not None:
        heard = triggers.hearings(turn.scene, turn.utterance, progress.heard)
        hearings = {hearing.document.id: hearing for hearing in heard}
    lists = []
    for document, _ in world.forbidden(turn.scene):
        hearing = hearings.get(document.id)
        attack = hearing.attack if hearing else None
        lists.append(
            ExplainedTrigger(
                id=document.id,
                fired=bool(closed and closed.trigger == document.id),
                keyword=triggers.keyword(document, turn.utterance),
                nearest_example=hearing.example if hearing else None,
                cosine=_rounded(hearing.cosine) if hearing else None,
                attack_score=_rounded(attack.value) if attack else None,
                same=hearing.same if hearing else None,
                attack_threshold=attack.threshold if attack else None,
            )
        )
    trigger = world.trigger_def(turn.scene)
    return ExplainedGate(
        open=closed is None,
        reason=closed.reason if closed else None,
        precheck_passed=progress.precheck_passed,
        triggers=lists,
        conditions=list(checked(trigger.trigger, turn.facts)) if trigger else [],
    )


def _notes(progress: Progress) -> list[ExplainedNote]:
    shown = {match.document.id for match in progress.shown}
    return [
        ExplainedNote(
            id=found.match.document.id,
            score=round(found.match.score, 4),
            letters=round(found.match.letters, 4),
            lead=round(found.lead, 4),
            nearest_passage=found.match.passage,
            shown=found.match.document.id in shown,
            why_not=_why_not(is_near=found.is_near, is_shown=found.match.document.id in shown),
        )
        for found in progress.recalled
    ]


def _why_not(*, is_near: bool, is_shown: bool) -> str | None:
    if is_shown:
        return None
    return "over the note budget" if is_near else "too far"


def _deltas(progress: Progress, world: World) -> dict[str, ExplainedDelta]:
    if progress.prediction is None or progress.decision is None:
        return {}
    trigger = world.trigger_def(progress.turn.scene)
    policies = trigger.delta_policy if trigger else {}
    return {
        name: ExplainedDelta(
            raw=round(raw, 4),
            policy=_bounds(policies, name),
            final=progress.decision.delta[name],
        )
        for name, raw in progress.prediction.delta.items()
    }


def _bounds(policies: Mapping[str, DeltaPolicy], name: str) -> dict[str, float] | None:
    policy = policies.get(name)
    if policy is None:
        return None
    return {"min": policy.min, "max": policy.max, "per_turn_cap": policy.per_turn_cap}


def _flags(progress: Progress, world: World) -> dict[str, ExplainedFlag]:
    decision = progress.decision
    if decision is None:
        return {}
    flags = {}
    for name, detail in decision.details.items():
        rule: FlagRule = flag_rule(world, progress.turn.facts, name, progress.nearest)
        document = rule.document
        has_own = document is not None and document.threshold is not None
        conditions = (document.conditions if document else None) or Conditions()
        flags[name] = ExplainedFlag(
            score=detail.score,
            threshold=detail.threshold,
            threshold_from="document" if has_own else "bundle",
            raised=decision.flags[name],
            held_back=rule.held_back,
            source=detail.source,
            found_by=detail.found_by,
            conditions=list(checked(conditions, progress.turn.facts)),
        )
    return flags


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
