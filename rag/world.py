"""A loaded world: exact look-ups by NPC, stage and place, worked out once at load."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from rag.check import check_documents
from rag.documents import (
    ANY,
    Description,
    Document,
    Fallback,
    FlagDef,
    ForbiddenTriggerList,
    MainResValidate,
    NpcPersona,
    TriggerDef,
    TriggerMeta,
)
from rag.loader import Source, WorldError, read_documents
from rag.scopes import Scene, ScopeTable


class World:
    """NPCs and their documents. Build it with `load_world`."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents = list(documents)
        self.npcs = {d.npc_id: d for d in self.documents if isinstance(d, NpcPersona)}
        self._descriptions = ScopeTable(d for d in self.documents if isinstance(d, Description))
        self._trigger_defs = ScopeTable(d for d in self.documents if isinstance(d, TriggerDef))
        self._fallbacks = ScopeTable(d for d in self.documents if isinstance(d, Fallback))
        self._forbidden = ScopeTable(
            d for d in self.documents if isinstance(d, ForbiddenTriggerList)
        )
        self._validates = ScopeTable(d for d in self.documents if isinstance(d, MainResValidate))
        self._metas = {d.trigger: d for d in self.documents if isinstance(d, TriggerMeta)}
        flags: dict[str, list[FlagDef]] = defaultdict(list)
        flags_of: dict[tuple[str, str], list[FlagDef]] = defaultdict(list)
        for document in self.documents:
            if isinstance(document, FlagDef):
                flags[document.flag_name].append(document)
                flags_of[document.npc_id, document.flag_name].append(document)
        self._flags_of = dict(flags_of)
        self._flags = {name: ScopeTable(group) for name, group in flags.items()}

    @cached_property
    def places(self) -> list[str]:
        """The places of all NPCs, each once."""
        return sorted({place for npc in self.npcs.values() for place in npc.locations})

    def description(self, scene: Scene) -> Description | None:
        """What is going on at `scene`."""
        return self._descriptions.first(scene)

    def trigger_def(self, scene: Scene) -> TriggerDef | None:
        """Conditions and policies at `scene`."""
        return self._trigger_defs.first(scene)

    def fallback(self, scene: Scene) -> Fallback | None:
        """How the NPC answers at `scene` when the main path is closed."""
        return self._fallbacks.first(scene)

    def forbidden(self, scene: Scene) -> list[tuple[ForbiddenTriggerList, TriggerMeta | None]]:
        """Every list of what must not be said at `scene`, and what happens when it is."""
        return [(d, self._metas.get(d.id)) for d in self._forbidden.find_all(scene)]

    def validate(self, scene: Scene) -> MainResValidate | None:
        """Lines that fit at `scene`, and lines that must not leave."""
        return self._validates.first(scene)

    def knows_stage(self, scene: Scene) -> bool:
        """Whether the stage of `scene` is one of its NPC's; where she names none, every one is."""
        persona = self.npcs.get(scene.npc_id)
        stages = persona.stages if persona else []
        return not stages or scene.quest_stage in (ANY, *stages)

    def all_flag_defs(self, npc_id: str, flag_name: str) -> list[FlagDef]:
        """Every document of `flag_name` for an NPC or for all, whatever its stage and place."""
        owners = dict.fromkeys((npc_id, ANY))
        return [d for npc in owners for d in self._flags_of.get((npc, flag_name), ())]

    def flag_defs(self, scene: Scene, flag_name: str) -> Sequence[FlagDef]:
        """What `flag_name` may mean at `scene`: alternatives, the first that holds applies."""
        table = self._flags.get(flag_name)
        return table.find(scene) if table else ()


def load_world(folder: Path) -> World:
    """The world in `folder`. Raises WorldError with every problem found."""
    return World(source.document for source in read_world(folder))


def read_world(folder: Path) -> list[Source]:
    """The documents of the world in `folder`, checked. Raises WorldError with every problem."""
    sources, problems = read_documents(folder)
    if folder.is_dir():
        problems += check_documents(sources, str(folder))
    if problems:
        raise WorldError(problems)
    return sources
