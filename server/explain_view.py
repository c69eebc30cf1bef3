"""`persona ask --explain`: the explanation of a turn as text for a terminal.

Whatever a player, a model or a world wrote is shown as `Text`: rich would read markup in a `str`.
"""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from rag.conditions import Checked
from server.explanation import ExplainedGate, Explanation
from server.schemas import Answer

_YES, _NO = Text("✓", "green"), Text("✗", "red")


def explanation_view(answer: Answer, explanation: Explanation) -> Group:
    """Every decision, top to bottom in the order in which it was made."""
    return Group(*_sections(answer, explanation))


def _sections(answer: Answer, explanation: Explanation) -> Iterator[RenderableType]:
    yield Panel(_scene(answer, explanation), title="1  where", title_align="left")
    yield Panel(_gate(explanation.gate), title="2  the gate", title_align="left")
    yield Panel(_notes(explanation), title="3  what comes to mind", title_align="left")
    yield Panel(_prompt(explanation), title="4  the prompt", title_align="left")
    yield Panel(_decision(explanation), title="5  the decision", title_align="left")
    yield Panel(_line(answer, explanation), title="6  the line", title_align="left")


def _scene(answer: Answer, explanation: Explanation) -> Tree:
    scene = explanation.scene
    known = "" if scene.is_stage_known else " (no stage of this NPC)"
    stage, place = f"{scene.npc_id} · {scene.quest_stage}", f" · {scene.location} · {scene.lang}"
    tree = Tree(Text.assemble(stage, (known, "yellow"), place))
    for kind, name in scene.documents.items():
        tree.add(Text.assemble(f"{kind}: ", name or ("none applies", "dim")))
    for notice in answer.meta.notices or []:
        tree.add(Text(notice, style="yellow"))
    return tree


def _gate(gate: ExplainedGate) -> Group:
    reason = (gate.reason or "", "bold")
    verdict = Text.assemble(_YES, " open") if gate.open else Text.assemble(_NO, " closed: ", reason)
    if gate.precheck_passed is not None:
        verdict += f"   (the game says precheck_passed = {str(gate.precheck_passed).lower()})"
    parts: list[RenderableType] = [verdict]
    if gate.triggers:
        table = Table("forbidden list", "keyword", "attack", "nearest example", "cosine", box=None)
        for trigger in gate.triggers:
            table.add_row(
                Text.assemble(_NO, f" {trigger.id}") if trigger.fired else Text(trigger.id),
                Text(trigger.keyword or "-"),
                _against(trigger.attack_score, trigger.attack_threshold),
                Text(trigger.nearest_example or "-"),
                _against(trigger.cosine, trigger.same),
            )
        parts.append(table)
    parts.append(_conditions(gate.conditions))
    return Group(*parts)


def _against(value: float | None, bound: float | None) -> str:
    return "-" if value is None else f"{value:.3f} (fires at {bound:.3f})"


def _conditions(conditions: Sequence[Checked]) -> RenderableType:
    if not conditions:
        return Text("no conditions", style="dim")
    table = Table("", "condition", "needed", "found", box=None)
    for check in conditions:
        told = map(Text, (check.key, check.needed, check.found))
        table.add_row(_YES if check.holds else _NO, *told)
    return table


def _notes(explanation: Explanation) -> RenderableType:
    if not explanation.notes:
        return Text("nothing was searched", style="dim")
    bound = explanation.note_threshold
    names = ("score", "letters", f"lead (of {bound})", "nearest passage")
    table = Table("", "document", *names, "", box=None)
    for note in explanation.notes:
        table.add_row(
            _YES if note.shown else "",
            Text(note.id),
            f"{note.score:.3f}",
            f"{note.letters:.3f}",
            f"{note.lead:.3f}",
            Text(note.nearest_passage),
            note.why_not or "",
        )
    return table


def _prompt(explanation: Explanation) -> RenderableType:
    table = Table("block", "tokens", "text", box=None)
    for block in explanation.prompt:
        table.add_row(block.block, str(block.tokens), Text(block.text, overflow="fold"))
    total = sum(block.tokens for block in explanation.prompt)
    table.add_row("[dim]all[/dim]", f"[dim]{total}[/dim]", "")
    return table


def _decision(explanation: Explanation) -> Group:
    deltas = Table("delta", "heads", "policy", "final", box=None)
    for name, delta in explanation.deltas.items():
        policy = ", ".join(f"{k} {v:g}" for k, v in (delta.policy or {}).items()) or "-"
        final = Text(f"{delta.final:+.3f}", "bold")
        deltas.add_row(Text(name), f"{delta.raw:+.4f}", policy, final)
    flags = Table("flag", "score", "threshold", "document", "why", box=None)
    for name, flag in explanation.flags.items():
        unmet = ", ".join(
            f"{c.key}: {c.needed} (found {c.found})" for c in flag.conditions if not c.holds
        )
        is_low = flag.score < flag.threshold
        why = "score below threshold" if is_low else (flag.held_back or "raised")
        if unmet:
            why += f"; unmet: {unmet}"
        found = f"{flag.source or '-'}{' (by meaning)' if flag.found_by == 'meaning' else ''}"
        flags.add_row(
            Text.assemble(_YES if flag.raised else " ", f" {name}"),
            f"{flag.score:.4f}",
            f"{flag.threshold:.4f} ({flag.threshold_from})",
            Text(found),
            Text(why),
        )
    told = Text(f"told to the model: {explanation.decision or 'nothing'}", style="dim")
    return Group(deltas, flags, told)


def _line(answer: Answer, explanation: Explanation) -> RenderableType:
    table = Table("", "sentence", "why not", box=None)
    for sentence in explanation.line:
        why = f"{sentence.refused}: {sentence.because}" if sentence.refused else ""
        attempt = "" if sentence.attempt == 1 else f" (attempt {sentence.attempt})"
        mark = _YES if sentence.released else _NO
        table.add_row(mark, Text(sentence.text + attempt), Text(why))
    source = Text(f"{answer.meta.text_source}: {answer.text}")
    return Group(table, source)
