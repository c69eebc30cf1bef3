"""Whether a dataset is fit to train on: every line, every conversation, and the splits together."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from rag.deltas import limits
from rag.flags import flag_rule
from rag.language import detect_language
from rag.loader import Problem
from rag.world import World
from train.dataset import Line, learned_from
from train.similarity import near_duplicates

MAX_TURNS = 12
MAX_UTTERANCE = 400
MAX_RESPONSE = 300
MIN_POSITIVE_SHARE = 0.06
"""Of the training turns, for each flag: below it a head sees too little of it."""
MAX_NEAR_DUPLICATES = 0.05
"""Share of a held-out split whose utterances may be close to one of training: greetings are."""

_ROUNDING = 0.011
_NOT_SPOKEN = re.compile(r"<[A-Z_]+>|\*|^[(\[]|^[\"“].*[\"”]$|^['‘].*['’]$|[\U0001F300-\U0001FAFF]")
"""Special tokens, stage directions, quotation marks around the whole line, emoji."""


def check_dataset(splits: Mapping[str, Sequence[Line]], world: World) -> list[Problem]:
    """Everything wrong with the labelled lines of each split, and between splits."""
    problems: list[Problem] = []
    for lines in splits.values():
        for line in lines:
            problems += _line(line, world)
        for group in _conversations(lines):
            problems += _conversation(group, world)
    problems += _repeated_responses(splits)
    problems += _leaks(splits)
    if "train" in splits:
        problems += _balance(splits["train"])
    return problems


def _line(line: Line, world: World) -> Iterator[Problem]:
    turn = line.turn
    persona = world.npcs.get(turn.npc_id)
    if persona is None:
        known = ", ".join(sorted(world.npcs))
        yield line.problem("npc_id", f"the world has no NPC {turn.npc_id!r}", f"it has {known}")
        return
    for key, value, names in (
        ("tags.quest_stage", turn.tags.quest_stage, persona.stages),
        ("tags.location", turn.tags.location, world.places),
    ):
        if value not in names:
            what = f"the world has no {key.removeprefix('tags.')} {value!r} for {turn.npc_id!r}"
            yield line.problem(key, what, f"it has {', '.join(names)}")
    yield from _flags(line, world)
    yield from _deltas(line, world)
    for key, text, longest in (
        ("player_utterance", turn.player_utterance, MAX_UTTERANCE),
        ("response", turn.response, MAX_RESPONSE),
    ):
        if len(text) > longest:
            yield line.problem(key, f"{len(text)} characters; at most {longest}", "shorten it")
    if (lang := detect_language(turn.response, turn.lang)) != turn.lang:
        what = f"reads as {lang!r}, labelled {turn.lang!r}"
        yield line.problem("response", what, "answer in the language of `lang`")
    if found := _NOT_SPOKEN.search(turn.response):
        what = f"{found[0]!r} is not spoken"
        yield line.problem("response", what, "write the NPC's words alone")


def _deltas(line: Line, world: World) -> Iterator[Problem]:
    trigger = world.trigger_def(line.turn.facts.scene)
    for name, policy in (trigger.delta_policy if trigger else {}).items():
        value = line.turn.delta.get(name)
        if value is None:
            continue
        low, high = limits(policy)
        if not low <= value <= high:
            what = f"{value}, but the world keeps it in [{low}, {high}] here"
            yield line.problem(f"delta.{name}", what, f"write {max(low, min(high, value))}")


def _flags(line: Line, world: World) -> Iterator[Problem]:
    turn = line.turn
    for name in turn.withheld:
        if name not in turn.flag:
            what = f"{name!r} is no flag of this dataset"
            yield line.problem("withheld", what, f"it has {', '.join(turn.flag)}")
        elif turn.flag[name]:
            yield line.problem("withheld", f"{name!r} is raised", "a flag is raised or withheld")
    for name, value in turn.flag.items():
        rule = flag_rule(world, turn.facts, name)
        if value and rule.held_back:
            gaps = "; ".join(f"{gap.key} {gap.needed}, found {gap.found}" for gap in rule.unmet)
            why = f"{rule.held_back}: {gaps}" if gaps else rule.held_back
            what = f"1, but the world holds it back ({why})"
            yield line.problem(f"flag.{name}", what, "label 0 (and `withheld` if asked for)")
        if name in turn.withheld and not rule.held_back:
            what = f"{name!r} is withheld, but the world allows it here"
            yield line.problem("withheld", what, "raise it, or remove it from `withheld`")


def _conversations(lines: Sequence[Line]) -> list[list[Line]]:
    grouped: dict[str, list[Line]] = defaultdict(list)
    for line in lines:
        grouped[line.turn.conversation].append(line)
    return [sorted(group, key=lambda line: line.turn.turn) for group in grouped.values()]


def _conversation(lines: Sequence[Line], world: World) -> Iterator[Problem]:
    first = lines[0].turn
    if len(lines) > MAX_TURNS:
        what = f"{first.conversation!r} has {len(lines)} turns; at most {MAX_TURNS}"
        yield lines[0].problem("conversation", what, "cut it in two")
    for number, line in enumerate(lines):
        if line.turn.turn != number:
            what = f"{line.turn.turn} where {number} of {first.conversation!r} should stand"
            yield line.problem("turn", what, "number turns from 0 without gaps")
            return
        for key in ("npc_id", "lang", "split_group"):
            if (value := getattr(line.turn, key)) != (expected := getattr(first, key)):
                what = f"{value!r}, but the conversation began with {expected!r}"
                yield line.problem(key, what, f"one {key} a conversation")
    for before, after in pairwise(lines):
        yield from _step(before, after, world)


def _step(before: Line, after: Line, world: World) -> Iterator[Problem]:
    """Whether the state moved from one turn to the next as the labels say."""
    old, new = before.turn, after.turn
    for name, change in old.delta.items():
        start, found = getattr(old.tags, name, None), getattr(new.tags, name, None)
        if start is None or found is None:
            continue
        expected = max(-1.0, min(1.0, start + change))
        if abs(found - expected) > _ROUNDING:
            what = f"{found} after {start} and a delta of {change}"
            yield after.problem(f"tags.{name}", what, f"write {round(expected, 2)}")
    raised = {
        name: document.value
        for name, value in old.flag.items()
        if value and (document := flag_rule(world, old.facts, name).document)
    }
    stage = raised.get("quest_stage_change", old.tags.quest_stage)
    if new.tags.quest_stage != stage:
        what = f"{new.tags.quest_stage!r} after {old.tags.quest_stage!r}, by the flags {stage!r}"
        yield after.problem("tags.quest_stage", what, f"write {stage!r}, or mend the flag")
    given = raised.get("give_item")
    if given is not None and given not in new.context.player_state.items:
        what = f"lacks {given!r}, which the turn before gave"
        yield after.problem("context.player_state.items", what, "add it")


def _repeated_responses(splits: Mapping[str, Sequence[Line]]) -> Iterator[Problem]:
    first: dict[str, Line] = {}
    for line in (line for lines in splits.values() for line in lines):
        text = " ".join(line.turn.response.split())
        if text in first:
            other = first[text]
            what = f"the same line as {other.path}, line {other.number}"
            yield line.problem("response", what, "no two alike: write another")
        first.setdefault(text, line)


def _leaks(splits: Mapping[str, Sequence[Line]]) -> Iterator[Problem]:
    """What one split would tell of another: groups, conversations, near-duplicates."""
    homes: dict[tuple[str, str], str] = {}
    for split, lines in splits.items():
        for line in lines:
            for key in ("split_group", "conversation"):
                value = getattr(line.turn, key)
                home = homes.setdefault((key, value), split)
                if home != split:
                    what = f"{value!r} stands in {home} and in {split}"
                    yield line.problem(key, what, "keep it in one split")
    learned = learned_from(splits)
    for split in ("validation", "test"):
        if split not in splits:
            continue
        pairs = near_duplicates(splits[split], learned)
        if len(pairs) > MAX_NEAR_DUPLICATES * len(splits[split]):
            for line, other, value in pairs:
                what = f"{value:.2f} like {other.path}, line {other.number}"
                yield line.problem("player_utterance", what, "write it differently")


def _balance(lines: Sequence[Line]) -> Iterator[Problem]:
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update({name: value for name, value in line.turn.flag.items() if value})
    for name in lines[0].turn.flag if lines else ():
        share = counts[name] / len(lines)
        if share < MIN_POSITIVE_SHARE:
            what = f"{name!r} is 1 in {share:.1%} of the training turns"
            remedy = f"label more of it: at least {MIN_POSITIVE_SHARE:.0%}"
            yield Problem(str(lines[0].path.parent), "-", f"flag.{name}", what, remedy)
