"""Whether a world's documents fit together: names, stages, flags, items, triggers, languages.

Schemas say what one document may hold (`rag/loader.py`); here documents are held against each
other; conditions in a module of their own. Every check returns all it finds.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import get_args

from rag.book import Book, one_of, values_of
from rag.check_conditions import check_conditions
from rag.deltas import limits
from rag.documents import (
    ANY,
    BaseDocument,
    Description,
    DialogueTurn,
    Fallback,
    FlagDef,
    ForbiddenTriggerList,
    MainResValidate,
    NpcPersona,
    Questions,
    TriggerDef,
    TriggerMeta,
)
from rag.keywords import Keywords
from rag.loader import Problem, Source
from rag.searchable import Note

STAGE_FLAG = "quest_stage_change"
"""The flag whose value is the next stage."""


def check_documents(sources: Sequence[Source], folder: str) -> list[Problem]:
    """Everything wrong between the documents of a world, each file's problems together."""
    book = Book(sources)
    checks = (
        _ids,
        _personas,
        _scopes,
        _same_scopes,
        _scopes_of_others,
        _blank_texts,
        _languages,
        _stages,
        _flag_policies,
        _flag_defs,
        _examples,
        _questions,
        check_conditions,
        _delta_policies,
        _forbidden_triggers,
        _fallbacks,
    )
    problems = [problem for check in checks for problem in check(book)]
    if not book.npcs:
        what, remedy = (
            "no npc_persona: a world needs an NPC",
            "`persona world new NPC_ID` makes one",
        )
        problems.append(Problem(folder, "-", "-", what, remedy))
    return problems


def check_names(
    sources: Sequence[Source], flags: Collection[str], deltas: Collection[str]
) -> list[Problem]:
    """Flags and deltas that the world speaks of and a bundle's heads do not predict."""
    book = Book(sources)
    return [
        book.problem(document, key, f"the bundle has no {kind} {name!r}", one_of(name, known))
        for document in book.documents
        for kind, key, name in _predicted_names(document)
        if name not in (known := flags if kind == "flag" else deltas)
    ]


def _predicted_names(document: BaseDocument) -> list[tuple[str, str, str]]:
    """`(kind, key, name)` of each flag and delta that a document expects from the heads."""
    if isinstance(document, FlagDef):
        return [("flag", "flag_name", document.flag_name)]
    if isinstance(document, TriggerDef):
        return [("delta", f"delta_policy.{name}", name) for name in document.delta_policy]
    if isinstance(document, TriggerMeta):
        return [("delta", f"delta.{name}", name) for name in document.delta]
    return []


def _ids(book: Book) -> Iterator[Problem]:
    first: dict[str, str] = {}
    for source in book.sources:
        name = source.document.id
        if name in first:
            what = f"also used in {first[name]}"
            yield book.problem(source.document, "id", what, "ids are unique: give one another id")
        first.setdefault(name, source.file)


def _personas(book: Book) -> Iterator[Problem]:
    seen: set[str] = set()
    for persona in book.all(NpcPersona):
        npc = persona.npc_id
        if npc == ANY:
            what, remedy = "a persona must name its NPC, not any", "write the NPC's id"
            yield book.problem(persona, "npc_id", what, remedy)
        elif npc in seen:
            what, remedy = f"a second npc_persona for {npc!r}", "keep one of them"
            yield book.problem(persona, "npc_id", what, remedy)
        seen.add(npc)
        for key in ("quest_stage", "location"):
            if getattr(persona, key) != ANY:
                what = "a persona holds at every stage and place: <SYS> never changes"
                yield book.problem(persona, key, what, "move what differs into a description")


def _scopes(book: Book) -> Iterator[Problem]:
    strangers = Counter(d.npc_id for d in book.documents if not book.is_npc(d.npc_id))
    told: set[str] = set()
    for document in book.documents:
        npc = document.npc_id
        if npc in strangers:
            if npc not in told:
                others = f", which {strangers[npc]} documents name" if strangers[npc] > 1 else ""
                what = f"no npc_persona for {npc!r}{others}"
                yield book.problem(document, "npc_id", what, one_of(npc, book.npcs))
            told.add(npc)
            continue
        for key in ("quest_stage", "location"):
            value = getattr(document, key)
            if value == ANY or isinstance(document, NpcPersona):
                continue
            if value not in (names := book.names(key, npc)):
                owner = "the world" if npc == ANY else repr(npc)
                what = f"{owner} has no {key} {value!r}"
                yield book.problem(document, key, what, one_of(value, names))


def _same_scopes(book: Book) -> Iterator[Problem]:
    """Documents behind another of their type and scope, where the first one is all that applies."""
    first: dict[tuple[str, ...], Source] = {}
    for source in book.sources:
        document = source.document
        if not isinstance(document, Description | Fallback | MainResValidate | TriggerDef):
            continue
        kind = str(document.__struct_config__.tag)
        scope = kind, document.npc_id, document.quest_stage, document.location
        if scope in first:
            other = first[scope]
            what = f"never applies: the {kind} {other.document.id!r} ({other.file}) is for the same"
            remedy = "make one of the two, or give this one a stage or place of its own"
            yield book.problem(document, "quest_stage", what, remedy)
        first.setdefault(scope, source)


def _scopes_of_others(book: Book) -> Iterator[Problem]:
    """Scopes that documents do not share with the one that they name and apply wherever it does."""
    named = {document.id: document for document in book.documents}
    for document in book.documents:
        if not isinstance(document, TriggerMeta | Questions):
            continue
        name = document.trigger if isinstance(document, TriggerMeta) else document.about
        other = named.get(name, document)  # a name of nothing is told elsewhere
        for key in ("npc_id", "quest_stage", "location"):
            value = getattr(document, key)
            if value not in (ANY, getattr(other, key)):
                what = f"{value!r} bounds nothing: this applies wherever {name!r} does"
                yield book.problem(document, key, what, f"remove it, or write it at {name!r}")


def _languages(book: Book) -> Iterator[Problem]:
    for document in book.documents:
        if (persona := book.npcs.get(document.npc_id)) is None:
            continue
        for key, value in values_of(document):
            is_text = isinstance(value, dict) and value and value.keys() <= {"ko", "en"}
            if is_text and persona.lang not in value:
                what = f"has no {persona.lang!r} text, the language of {document.npc_id!r}"
                yield book.problem(document, key, what, f'add "{persona.lang}": "…"')


def _blank_texts(book: Book) -> Iterator[Problem]:
    for document in book.documents:
        for key, value in values_of(document):
            texts = (
                {f"{key}.{k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {key: value}
            )
            for place, text in texts.items():
                if isinstance(text, str) and text and not text.strip():
                    yield book.problem(document, place, "is blank", "write it, or remove the key")


def _stages(book: Book) -> Iterator[Problem]:
    for persona in book.npcs.values():
        for name, count in Counter(persona.stages).items():
            if count > 1:
                what = f"names {name!r} {count} times"
                yield book.problem(persona, "stages", what, "a stage is named once, in order")
            if name == ANY:
                yield book.problem(persona, "stages", f"{ANY!r} is no stage", "name a real one")
        next_stages = _next_stages(book, persona)
        reached = _reached(persona.stages[:1], next_stages)
        for stage in persona.stages:
            if stage not in reached:
                is_next = any(stage in names for names in next_stages.values())
                where = " from a stage that is reached" if is_next else ""
                what = f"no {STAGE_FLAG} flag_def leads to {stage!r}{where}"
                remedy = f"add one at an earlier stage with value {stage!r}, not forbidden there"
                yield book.problem(persona, "stages", what, remedy)
    for flag_def in book.flags.get(STAGE_FLAG, []):
        npc = flag_def.npc_id
        if not book.is_npc(npc):
            continue
        known = book.names("quest_stage", npc)
        if flag_def.value not in known:
            owner = "any NPC" if npc == ANY else repr(npc)
            what = f"{flag_def.value!r} is no stage of {owner}"
            yield book.problem(flag_def, "value", what, one_of(str(flag_def.value), known))


def _next_stages(book: Book, persona: NpcPersona) -> dict[str, set[str]]:
    """The stages that an event of each stage leads to."""
    found: dict[str, set[str]] = defaultdict(set)
    for scene in book.scenes(persona):
        flag_defs = book.flags_at(scene, STAGE_FLAG)
        found[scene.quest_stage] |= {str(flag_def.value) for flag_def in flag_defs}
    return found


def _reached(first: Iterable[str], next_stages: Mapping[str, Iterable[str]]) -> set[str]:
    """The stages that `first` ones lead to in however many steps, and these."""
    reached: set[str] = set()
    pending = [*first]
    while pending:
        stage = pending.pop()
        if stage not in reached:
            reached.add(stage)
            pending += next_stages.get(stage, ())
    return reached


def _flag_policies(book: Book) -> Iterator[Problem]:
    owners: dict[str, set[str]] = defaultdict(set)
    for name, group in book.flags.items():
        for flag_def in group:
            owners[flag_def.npc_id].add(name)
    for trigger in book.all(TriggerDef):
        policy = trigger.flag_policy
        known = owners[trigger.npc_id] | owners[ANY] if trigger.npc_id != ANY else {*book.flags}
        for key in ("allowed", "forbidden"):
            for name in getattr(policy, key):
                if name not in known:
                    what = f"no flag_def defines {name!r} for {trigger.npc_id!r}"
                    yield book.problem(trigger, f"flag_policy.{key}", what, one_of(name, known))
        for name in sorted({*policy.allowed} & {*policy.forbidden}):
            what = f"{name!r} is both allowed and forbidden"
            yield book.problem(trigger, "flag_policy", what, "remove it from one of the lists")


def _flag_defs(book: Book) -> Iterator[Problem]:
    scenes = [scene for persona in book.npcs.values() for scene in book.scenes(persona)]
    for flag, group in book.flags.items():
        reached = {id(flag_def) for scene in scenes for flag_def in book.flags_at(scene, flag)}
        for flag_def in group:
            if book.is_npc(flag_def.npc_id) and id(flag_def) not in reached:
                what = f"{flag!r} can never be raised by this document"
                remedy = (
                    "allow the flag in the trigger_def of a stage it applies to, or remove what "
                    "goes before it: a more specific flag_def, or one without conditions"
                )
                yield book.problem(flag_def, "flag_name", what, remedy)


def _examples(book: Book) -> Iterator[Problem]:
    for document in book.documents:
        if not isinstance(document, FlagDef | MainResValidate):
            continue
        both = set(document.examples_positive) & set(document.examples_negative)
        for text in sorted(both):
            what = f"{text!r} is an example of both sides"
            yield book.problem(document, "examples_negative", what, "keep it on one side")
        for key in ("examples_positive", "examples_negative"):
            for text, count in Counter(getattr(document, key)).items():
                if count > 1:
                    yield book.problem(document, key, f"{text!r} stands {count} times", "keep one")


def _questions(book: Book) -> Iterator[Problem]:
    notes = {d.id: d.npc_id for d in book.documents if isinstance(d, get_args(Note))}
    first: dict[tuple[str, str], str] = {}
    for document in book.all(Questions):
        if document.about not in notes:
            what = f"no lore, description or dialogue_turn has the id {document.about!r}"
            yield book.problem(document, "about", what, one_of(document.about, notes))
        for text in document.questions:
            key = notes.get(document.about, ""), text
            if key in first:
                what = f"{text!r} stands in {first[key]!r} too: it finds neither before the other"
                yield book.problem(document, "questions", what, "keep it in one of them")
            first.setdefault(key, document.id)


def _delta_policies(book: Book) -> Iterator[Problem]:
    for trigger in book.all(TriggerDef):
        for name, policy in trigger.delta_policy.items():
            if policy.min > policy.max:
                what = f"min {policy.min} is above max {policy.max}"
                yield book.problem(trigger, f"delta_policy.{name}", what, "swap them")
                continue
            low, high = limits(policy)
            if low > high:
                cap = policy.per_turn_cap
                what = f"per_turn_cap {cap} leaves nothing of {policy.min} to {policy.max}"
                remedy = "raise per_turn_cap, or bring min and max nearer to 0"
                yield book.problem(trigger, f"delta_policy.{name}", what, remedy)


def _forbidden_triggers(book: Book) -> Iterator[Problem]:
    lists = {d.id: d for d in book.all(ForbiddenTriggerList)}
    metas: dict[str, str] = {}
    for meta in book.all(TriggerMeta):
        if meta.trigger not in lists:
            what = f"no forbidden_trigger_list has the id {meta.trigger!r}"
            yield book.problem(meta, "trigger", what, one_of(meta.trigger, lists))
        elif meta.trigger in metas:
            what = f"{meta.trigger!r} has a trigger_meta already: {metas[meta.trigger]!r}"
            yield book.problem(meta, "trigger", what, "keep one of them")
        metas.setdefault(meta.trigger, meta.id)
    for name, document in lists.items():
        if name not in metas:
            what = "no trigger_meta says what happens when it fires"
            yield book.problem(document, "id", what, f'add one with "trigger": "{name}"')
        if not document.triggers.keywords and not document.triggers.text:
            yield book.problem(document, "triggers", "nothing can fire it", "add keywords or text")
        for keyword in document.triggers.keywords:
            if Keywords.of([keyword]).found_in(keyword) is None:
                what = f"{keyword!r} never fires: it has no letter, digit or symbol"
                remedy = "write a word, or remove it"
                yield book.problem(document, "triggers.keywords", what, remedy)
    yield from _keywords_in_ordinary_talk(book, lists.values())


def _keywords_in_ordinary_talk(
    book: Book, lists: Iterable[ForbiddenTriggerList]
) -> Iterator[Problem]:
    """Keywords that would end the NPC's own model dialogues."""
    turns: dict[str, list[DialogueTurn]] = defaultdict(list)
    for turn in book.all(DialogueTurn):
        turns[turn.npc_id].append(turn)
    for document in lists:
        own = book.all(DialogueTurn) if document.npc_id == ANY else turns[document.npc_id]
        keywords = Keywords.of(document.triggers.keywords)
        each = [Keywords.of([keyword]) for keyword in keywords]
        for turn in own:
            if keywords.found_in(turn.player) is None:
                continue
            for one in each:
                if keyword := one.found_in(turn.player):
                    what = f"{keyword!r} fires on the dialogue_turn {turn.id!r}"
                    remedy = "choose a longer keyword, or change that dialogue_turn"
                    yield book.problem(document, "triggers.keywords", what, remedy)


def _fallbacks(book: Book) -> Iterator[Problem]:
    for persona in book.npcs.values():
        for scene in book.scenes(persona):
            document = book.fallbacks.first(scene)
            if document is None or not document.lines:
                where = f"at stage {scene.quest_stage!r}, place {scene.location!r}"
                what = f"nothing to say {where} when the model can't be asked"
                yield book.problem(persona, "npc_id", what, "add a fallback document with lines")
