"""What a prompt says of the world: the same for a request and for a training example."""

from rag.documents import Lang, NpcPersona, localise
from rag.scopes import Scene
from rag.world import World
from runtime.prompt import Npc


def npc_for_prompt(persona: NpcPersona, lang: Lang) -> Npc:
    """The `<SYS>` text of an NPC: the same for all its conversations in `lang`."""
    return Npc(
        npc_id=persona.npc_id,
        name=localise(persona.name, lang),
        persona=localise(persona.persona, lang),
        style=localise(persona.style, lang),
        lore=localise(persona.lore, lang),
    )


def rag_for_prompt(world: World, scene: Scene, lang: Lang) -> tuple[str, str]:
    """`(description, instructions)` of the `<RAG>` block at `scene`; empty where unwritten."""
    document = world.description(scene)
    if document is None:
        return "", ""
    return localise(document.content, lang), localise(document.instructions, lang)
