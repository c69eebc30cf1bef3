"""All documents of a world, and what its checks look up there and tell (`rag/check.py`)."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import msgspec

from rag.documents import (
    ANY,
    BaseDocument,
    Conditions,
    Document,
    Fallback,
    FlagDef,
    FlagPolicy,
    NpcPersona,
    TriggerDef,
)
from rag.loader import Problem, Source
from rag.scopes import Scene, ScopeTable

D = TypeVar("D", bound=BaseDocument)

_MOST_NAMES, _NUM_NEAREST = 20, 5
"""How many known names are all told, and of more, how many."""


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

    def is_npc(self, npc_id: str) -> bool:
        """Whether it is the id of an NPC with a persona, or "any"."""
        return npc_id == ANY or npc_id in self.npcs

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


def values_of(document: BaseDocument) -> Iterator[tuple[str, Any]]:
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


def one_of(name: str, known: Collection[str]) -> str:
    """The remedy for a `name` that should be one of the `known`; of many it names the nearest."""
    names = list(known)
    near = get_close_matches(name, names, n=_NUM_NEAREST, cutoff=0.3)
    if close := get_close_matches(name, near, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    if len(names) > _MOST_NAMES:
        some = ", ".join(near or names[:_NUM_NEAREST])
        return f"of the {len(names)} known {'the nearest' if near else 'the first'} are {some}"
    return f"known are {', '.join(known)}" if known else "none is known: define it first"
