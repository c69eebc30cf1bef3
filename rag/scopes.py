"""Where documents apply: by NPC, quest stage and place, from the most to the least specific."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar

from rag.documents import ANY, BaseDocument

D = TypeVar("D", bound=BaseDocument)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a conversation stands: the key of every look-up."""

    npc_id: str
    quest_stage: str = ANY
    location: str = ANY


class ScopeTable(Generic[D]):
    """Documents of one type by scope; the most specific scope that has any wins."""

    def __init__(self, documents: Iterable[D]) -> None:
        self._by_scope: dict[tuple[str, str, str], list[D]] = defaultdict(list)
        for document in documents:
            scope = document.npc_id, document.quest_stage, document.location
            self._by_scope[scope].append(document)

    def find(self, scene: Scene) -> Sequence[D]:
        """The documents of the most specific scope that `scene` falls into; may be empty."""
        for scope in fallback_scopes(scene.npc_id, scene.quest_stage, scene.location):
            if found := self._by_scope.get(scope):
                return found
        return ()

    def find_all(self, scene: Scene) -> list[D]:
        """The documents of every scope that `scene` falls into, most specific first."""
        scopes = fallback_scopes(scene.npc_id, scene.quest_stage, scene.location)
        return [document for scope in scopes for document in self._by_scope.get(scope, ())]

    def first(self, scene: Scene) -> D | None:
        """The first of `find`, if any."""
        return next(iter(self.find(scene)), None)


@lru_cache(maxsize=1_024)  # a turn looks up a dozen tables with the same ones
def fallback_scopes(npc_id: str, stage: str, location: str) -> tuple[tuple[str, str, str], ...]:
    """Scopes to try in turn: stage and place, place, stage, neither; then the same for any NPC.

    Each once, where some of them coincide.
    """
    scopes = [
        scope
        for npc in (npc_id, ANY)
        for scope in (
            (npc, stage, location),
            (npc, ANY, location),
            (npc, stage, ANY),
            (npc, ANY, ANY),
        )
    ]
    return tuple(dict.fromkeys(scopes))
