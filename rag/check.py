"""Whether a world's documents fit together: names, stages, flags, items, triggers, languages.

Schemas say what one document may hold (`rag/loader.py`); here documents are held against each
other. Every check returns all it finds.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

import msgspec

from rag.conditions import NPC_STATE_KEYS, NPC_VALUES, PLAYER_STATE_KEYS
from rag.documents import (
    ANY,
    BaseDocument,
    Conditions,
    DialogueTurn,
    Document,
    Fallback,
    FlagDef,
    FlagPolicy,
    ForbiddenTriggerList,
    Lore,
    MainResValidate,
    NpcPersona,
    Questions,
    TriggerDef,
    TriggerMeta,
)
from rag.loader import Problem, Source
from rag.scopes import Scene, ScopeTable
from rag.searchable import Note

D = TypeVar("D", bound=BaseDocument)

STAGE_FLAG = "quest_stage_change"
"""The flag whose value is the next stage."""

_WORDS_NOT_TEXT = {
    "id",
    "about",
    "npc_id",
    "quest_stage",
    "location",
    "comment",
    "trigger",
    "flag_name",
}


class Book:
    """All documents of a world with the look-ups that the checks share."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.sources = sources
        self.documents: list[Document] = [source.document for source in sources]
        self._files = {id(source.document): source.file for source in sources}
        named = [p for p in self.all(NpcPersona) if p.npc_id != ANY]
        self.npcs = {persona.npc_id: persona for persona in reversed(named)}
        self.flags: dict[str, list[FlagDef]] = defaultdict(list)
        for flag_def in self.all(FlagDef):
            self.flags[flag_def.flag_name].append(flag_def)
        self.flag_tables = {name: ScopeTable(group) for name, group in self.flags.items()}
        self.trigger_defs = ScopeTable(self.all(TriggerDef))
        self.fallbacks = ScopeTable(self.all(Fallback))

    def all(self, kind: type[D]) -> list[D]:
        """The documents of one type, in file order."""
        return [d for d in self.documents if isinstance(d, kind)]

    def scenes(self, persona: NpcPersona) -> Iterator[Scene]:
        """Every stage and place of an NPC; "any" where it names none."""
        for stage in persona.stages or [ANY]:
            for place in persona.locations or [ANY]:
                yield Scene(persona.npc_id, stage, place)

    def names(self, key: str, npc_id: str = ANY) -> list[str]:
        """The stages (`key` "quest_stage") or places ("location") of an NPC, or of all."""
        field = {"quest_stage": "stages", "location": "locations"}[key]
        owners = self.npcs.values() if npc_id == ANY else [self.npcs[npc_id]]
        return list(dict.fromkeys(name for owner in owners for name in getattr(owner, field)))

    def flags_at(self, scene: Scene, flag: str) -> Sequence[FlagDef]:
        """The flag_defs that may be raised at `scene`, best first; none if the policy forbids."""
        trigger = self.trigger_defs.first(scene)
        policy = trigger.flag_policy if trigger else FlagPolicy()
        if not policy.allows(flag):
            return []
        alternatives = self.flag_tables[flag].find(scene) if flag in self.flag_tables else []
        for number, flag_def in enumerate(alternatives):
            if flag_def.conditions in (None, Conditions()):
                return alternatives[: number + 1]
        return alternatives

    def problem(self, document: BaseDocument, key: str, what: str, remedy: str) -> Problem:
        """A problem of `document`."""
        return Problem(self._files[id(document)], document.id, key, what, remedy)


def check_documents(sources: Sequence[Source], folder: str) -> list[Problem]:
    """Everything wrong between the documents of a world, each file's problems together."""
    book = Book(sources)
    checks = (
        _ids,
        _personas,
        _scopes,
        _blank_texts,
        _languages,
        _stages,
        _flag_policies,
        _flag_defs,
        _examples,
        _questions,
        _conditions,
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
        book.problem(document, key, f"the bundle has no {kind} {name!r}", _one_of(name, known))
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
    for document in book.documents:
        npc = document.npc_id
        if npc not in book.npcs and npc != ANY:
            what = f"no npc_persona for {npc!r}"
            yield book.problem(document, "npc_id", what, _one_of(npc, book.npcs))
            continue
        for key in ("quest_stage", "location"):
            value, names = getattr(document, key), book.names(key, npc)
            if value not in (ANY, *names) and not isinstance(document, NpcPersona):
                owner = "the world" if npc == ANY else repr(npc)
                what = f"{owner} has no {key} {value!r}"
                yield book.problem(document, key, what, _one_of(value, names))


def _languages(book: Book) -> Iterator[Problem]:
    for document in book.documents:
        if (persona := book.npcs.get(document.npc_id)) is None:
            continue
        for key, value in _values(document):
            is_text = isinstance(value, dict) and value and value.keys() <= {"ko", "en"}
            if is_text and persona.lang not in value:
                what = f"has no {persona.lang!r} text, the language of {document.npc_id!r}"
                yield book.problem(document, key, what, f'add "{persona.lang}": "…"')


def _blank_texts(book: Book) -> Iterator[Problem]:
    for document in book.documents:
        for key, value in _values(document):
            texts = (
                {f"{key}.{k}": v for k, v in value.items()}
                if isinstance(value, dict)
                else {key: value}
            )
            for place, text in texts.items():
                if isinstance(text, str) and text and not text.strip():
                    yield book.problem(document, place, "is blank", "write it, or remove the key")


def _values(document: BaseDocument) -> Iterator[tuple[str, Any]]:
    """Every text or map of a document with its key, elements of lists apart."""
    for info in msgspec.structs.fields(document):
        yield from _nested(info.name, getattr(document, info.name))


def _nested(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        for number, item in enumerate(value):
            yield from _nested(f"{key}[{number}]", item)
    elif isinstance(value, msgspec.Struct):
        for info in msgspec.structs.fields(value):
            yield from _nested(f"{key}.{info.name}", getattr(value, info.name))
    else:
        yield key, value


def _stages(book: Book) -> Iterator[Problem]:
    for persona in book.npcs.values():
        for name, count in Counter(persona.stages).items():
            if count > 1:
                what = f"names {name!r} {count} times"
                yield book.problem(persona, "stages", what, "a stage is named once, in order")
            if name == ANY:
                yield book.problem(persona, "stages", f"{ANY!r} is no stage", "name a real one")
        reached = {*persona.stages[:1]}
        for scene in book.scenes(persona):
            reached |= {str(flag_def.value) for flag_def in book.flags_at(scene, STAGE_FLAG)}
        for stage in persona.stages:
            if stage not in reached:
                what = f"no {STAGE_FLAG} flag_def leads to {stage!r}"
                remedy = f"add one at an earlier stage with value {stage!r}, not forbidden there"
                yield book.problem(persona, "stages", what, remedy)
    for flag_def in book.flags.get(STAGE_FLAG, []):
        if flag_def.npc_id not in book.npcs:
            continue
        known = book.names("quest_stage", flag_def.npc_id)
        if flag_def.value not in known:
            what = f"{flag_def.value!r} is no stage of {flag_def.npc_id!r}"
            yield book.problem(flag_def, "value", what, _one_of(str(flag_def.value), known))


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
                    yield book.problem(trigger, f"flag_policy.{key}", what, _one_of(name, known))
        for name in sorted({*policy.allowed} & {*policy.forbidden}):
            what = f"{name!r} is both allowed and forbidden"
            yield book.problem(trigger, "flag_policy", what, "remove it from one of the lists")


def _flag_defs(book: Book) -> Iterator[Problem]:
    scenes = [scene for persona in book.npcs.values() for scene in book.scenes(persona)]
    for flag, group in book.flags.items():
        reached = {id(flag_def) for scene in scenes for flag_def in book.flags_at(scene, flag)}
        for flag_def in group:
            if flag_def.npc_id in {*book.npcs, ANY} and id(flag_def) not in reached:
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
            yield book.problem(document, "about", what, _one_of(document.about, notes))
        for text in document.questions:
            key = notes.get(document.about, ""), text
            if key in first:
                what = f"{text!r} stands in {first[key]!r} too: it finds neither before the other"
                yield book.problem(document, "questions", what, "keep it in one of them")
            first.setdefault(key, document.id)


def _conditions(book: Book) -> Iterator[Problem]:
    is_mentioned = _Mentions(book)
    for document in book.documents:
        if isinstance(document, TriggerDef):
            yield from _condition(book, document, document.trigger, "trigger", is_mentioned)
        elif isinstance(document, FlagDef) and document.conditions:
            yield from _condition(book, document, document.conditions, "conditions", is_mentioned)


class _Mentions:
    """Whether a name stands in any value or text of the world, its conditions left out.

    `lamp_wick` stands in "the lamp wick" too.
    """

    def __init__(self, book: Book) -> None:
        self._names: dict[str, bool] = {}
        for document in book.documents:
            names = [*document.items] if isinstance(document, Lore) else []
            names += [str(document.value)] if isinstance(document, FlagDef) else []
            self._names |= dict.fromkeys((name.casefold() for name in names), True)
        self._book, self._text = book, ""

    def __call__(self, name: str) -> bool:
        name = name.casefold()
        if name not in self._names:
            self._text = self._text or self._all_text()
            self._names[name] = name in self._text or name.replace("_", " ") in self._text
        return self._names[name]

    def _all_text(self) -> str:
        parts: list[str] = []
        for document in self._book.documents:
            for key, value in _values(document):
                if key.split(".")[0] not in {"trigger", "conditions", *_WORDS_NOT_TEXT}:
                    parts += map(str, value.values()) if isinstance(value, dict) else [str(value)]
        return "\n".join(parts).casefold()


def _condition(
    book: Book, document: BaseDocument, conditions: Conditions, at: str, is_mentioned: _Mentions
) -> Iterator[Problem]:
    items = conditions.required_items
    for key in ("mandatory", "optional"):
        for name in getattr(items, key):
            if not is_mentioned(name):
                what = f"no document gives or describes the item {name!r}"
                remedy = "give it in a flag_def's value, or name it in `items` of a lore document"
                yield book.problem(document, f"{at}.required_items.{key}", what, remedy)
    for key, names, known in (
        ("required_delta.mandatory", conditions.required_delta.mandatory, NPC_VALUES),
        ("required_npc_state", conditions.required_npc_state, NPC_STATE_KEYS),
        ("required_player_state", conditions.required_player_state, PLAYER_STATE_KEYS),
    ):
        for name in names:
            if name not in known:
                what = f"no request sends {name!r} there"
                yield book.problem(document, f"{at}.{key}", what, _one_of(name, known))
    yield from _required_scene(book, document, conditions, f"{at}.required_game_state")
    for number, exception in enumerate(conditions.unless):
        here = f"{at}.unless[{number}]"
        if exception == Conditions():
            what = "is empty, so it always holds and the rest never does"
            yield book.problem(document, here, what, "write a condition into it, or remove it")
        yield from _condition(book, document, exception, here, is_mentioned)


def _required_scene(
    book: Book, document: BaseDocument, conditions: Conditions, at: str
) -> Iterator[Problem]:
    for key in conditions.required_game_state.keys() & {"quest_stage", "location"}:
        names, choice = book.names(key), conditions.required_game_state[key]
        choices = choice if isinstance(choice, list) else [choice]
        for value in choices:
            if value not in names:
                what = f"{value!r} is no {key} of this world"
                yield book.problem(document, f"{at}.{key}", what, _one_of(str(value), names))
        if (scope := getattr(document, key)) not in (ANY, *choices):
            what = f"never holds: the document applies only at {key} {scope!r}"
            yield book.problem(document, f"{at}.{key}", what, "remove it")


def _delta_policies(book: Book) -> Iterator[Problem]:
    for trigger in book.all(TriggerDef):
        for name, policy in trigger.delta_policy.items():
            if policy.min > policy.max:
                what = f"min {policy.min} is above max {policy.max}"
                yield book.problem(trigger, f"delta_policy.{name}", what, "swap them")


def _forbidden_triggers(book: Book) -> Iterator[Problem]:
    lists = {d.id: d for d in book.all(ForbiddenTriggerList)}
    metas: dict[str, str] = {}
    for meta in book.all(TriggerMeta):
        if meta.trigger not in lists:
            what = f"no forbidden_trigger_list has the id {meta.trigger!r}"
            yield book.problem(meta, "trigger", what, _one_of(meta.trigger, lists))
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
        for keyword in document.triggers.keywords:
            for turn in own:
                if keyword.casefold() in turn.player.casefold():
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


def _one_of(name: str, known: Collection[str]) -> str:
    if close := get_close_matches(name, list(known), n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return f"known are {', '.join(known)}" if known else "none is known: define it first"
