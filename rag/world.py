"""A loaded world: exact look-ups by NPC, stage and place, worked out once at load."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rag.documents import (
    ANY,
    BaseDocument,
    Description,
    Document,
    Fallback,
    FlagDef,
    NpcPersona,
    TriggerDef,
)
from rag.loader import (
    Problem,
    Source,
    WorldError,
    fallback_scopes,
    find_duplicates,
    read_documents,
    scope_of,
)

D = TypeVar("D", bound=BaseDocument)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a conversation stands: the key of every look-up."""

    npc_id: str
    quest_stage: str = ANY
    location: str = ANY


class ScopeTable:
    """Documents of one type by scope; the most specific scope that has any wins."""

    def __init__(self, documents: Iterable[D]) -> None:
        self._by_scope: dict[tuple[str, str, str], list[BaseDocument]] = defaultdict(list)
        for document in documents:
            self._by_scope[scope_of(document)].append(document)

    def find(self, scene: Scene, kind: type[D]) -> list[D]:
        """The documents of the most specific scope that `scene` falls into; may be empty."""
        for scope in fallback_scopes(scene.npc_id, scene.quest_stage, scene.location):
            if found := self._by_scope.get(scope):
                return [document for document in found if isinstance(document, kind)]
        return []


class World:
    """NPCs and their documents. Build it with `load_world`."""

    def __init__(self, documents: Iterable[Document]) -> None:
        by_type: dict[type[BaseDocument], list[Document]] = defaultdict(list)
        flags: dict[str, list[FlagDef]] = defaultdict(list)
        self.npcs: dict[str, NpcPersona] = {}
        for document in documents:
            by_type[type(document)].append(document)
            if isinstance(document, NpcPersona):
                self.npcs[document.npc_id] = document
            elif isinstance(document, FlagDef):
                flags[document.flag_name].append(document)
        self.num_documents = sum(len(group) for group in by_type.values())
        self._tables = {kind: ScopeTable(group) for kind, group in by_type.items()}
        self._flags = {name: ScopeTable(group) for name, group in flags.items()}

    def description(self, scene: Scene) -> Description | None:
        """What is going on at `scene`."""
        return self._first(scene, Description)

    def trigger_def(self, scene: Scene) -> TriggerDef | None:
        """Conditions and policies at `scene`."""
        return self._first(scene, TriggerDef)

    def fallback(self, scene: Scene) -> Fallback | None:
        """How the NPC answers at `scene` when the main path is closed."""
        return self._first(scene, Fallback)

    def flag_def(self, scene: Scene, flag_name: str) -> FlagDef | None:
        """What the raised flag `flag_name` means at `scene`."""
        table = self._flags.get(flag_name)
        found = table.find(scene, FlagDef) if table else []
        return found[0] if found else None

    def _first(self, scene: Scene, kind: type[D]) -> D | None:
        table = self._tables.get(kind)
        found = table.find(scene, kind) if table else []
        return found[0] if found else None


def load_world(folder: Path) -> World:
    """The world in `folder`. Raises WorldError with every problem found."""
    sources, problems = read_documents(folder)
    problems += find_duplicates(sources) + _check_npcs(sources, folder)
    if problems:
        raise WorldError(problems)
    return World(source.document for source in sources)


def _check_npcs(sources: list[Source], folder: Path) -> list[Problem]:
    """One persona for each NPC that is spoken of, and at least one NPC."""
    personas = [s for s in sources if isinstance(s.document, NpcPersona)]
    names = {s.document.npc_id for s in personas}
    problems = [
        Problem(s.file, s.document.id, "npc_id", "a persona must name its NPC, not any")
        for s in personas
        if s.document.npc_id == ANY
    ]
    problems += [
        Problem(s.file, s.document.id, "npc_id", f"no npc_persona for {s.document.npc_id!r}")
        for s in sources
        if s.document.npc_id not in names | {ANY}
    ]
    seen: set[str] = set()
    for source in personas:
        if source.document.npc_id in seen:
            what = f"a second npc_persona for {source.document.npc_id!r}"
            problems.append(Problem(source.file, source.document.id, "npc_id", what))
        seen.add(source.document.npc_id)
    if not personas and folder.is_dir():
        problems.append(Problem(str(folder), "-", "-", "no npc_persona: a world needs an NPC"))
    return problems
