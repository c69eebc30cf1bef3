"""One request, read against the world: who is asked, where, and in which state."""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from msgspec import structs

from heads.clues import Remark
from rag.conditions import UNKNOWN_REPUTATION, Facts
from rag.documents import ANY, Lang, NpcPersona, Scalar
from rag.language import detect_language
from rag.nfc import in_nfc
from rag.prompting import npc_for_prompt
from rag.scopes import Scene
from rag.world import World
from runtime.prompt import Npc, StateValue
from server.errors import UnknownNpc
from server.npc_config import configured
from server.preprocess import clean_text, utterance_of
from server.schemas import AskContext, AskRequest, HistoryTurn

_MAX_TOLD = 64
"""Characters of an unknown name that are told."""


@dataclass(frozen=True, slots=True)
class AskedTurn:
    """What the pipeline knows of a turn before the model is asked."""

    turn_id: str
    session_id: str
    persona: NpcPersona
    lang: Lang
    state: dict[str, StateValue]
    facts: Facts
    history: list[HistoryTurn]
    notices: list[str] = field(default_factory=list)
    """What of the request has no effect."""

    @property
    def npc(self) -> Npc:
        """The NPC as the prompt describes her."""
        return npc_for_prompt(self.persona, self.lang)

    @property
    def scene(self) -> Scene:
        """Where the conversation stands."""
        return self.facts.scene

    @property
    def utterance(self) -> str:
        """What the player said, cleaned."""
        return self.facts.utterance

    @property
    def remark(self) -> Remark:
        """What the heads read of the turn beside its `<STATE>`."""
        return Remark(self.persona.npc_id, self.utterance, self.state)


def read_turn(ask: AskRequest, world: World, notices: Sequence[str] = ()) -> AskedTurn:
    """The turn that `ask` asks for; the world fills what it leaves out, and adds its `notices`.

    Raises UnknownNpc or InvalidField.
    """
    npc_id, context = in_nfc(ask.npc_id), _in_nfc(ask.context)
    persona = world.npcs.get(npc_id)
    if persona is None:
        known = ", ".join(sorted(world.npcs))
        raise UnknownNpc(f"the world has no NPC {npc_id!r}; it has {known}")
    persona, ignored = configured(persona, context.npc_config)
    utterance = utterance_of(ask.text, ask.user_input)
    history = [
        HistoryTurn(clean_text(turn.player), clean_text(turn.npc)) for turn in ask.history or []
    ]
    game = context.game_state
    stage = _name(game.get("quest_stage")) or next(iter(persona.stages), ANY)
    location = _name(game.get("location")) or next(iter(persona.locations), ANY)
    scene = Scene(npc_id, stage, location)
    npc_state = _npc_state(context, persona)
    first_words = history[0].player if history else utterance
    return AskedTurn(
        turn_id=uuid.uuid4().hex,
        session_id=ask.session_id or f"{ask.player_id}:{npc_id}",
        persona=persona,
        lang=ask.lang or detect_language(first_words, persona.lang),
        state=_state(context, scene, npc_state),
        facts=_facts(context, scene, npc_state, utterance),
        history=history,
        notices=[*_unknown_scene(scene, persona, world), *ignored, *notices],
    )


def _in_nfc(context: AskContext) -> AskContext:
    """`context` with its names as the world's are; the history is cleaned by itself."""
    parts = structs.asdict(context)
    del parts["dialogue_history"]
    return structs.replace(context, **in_nfc(parts))


def _unknown_scene(scene: Scene, persona: NpcPersona, world: World) -> Iterator[str]:
    """That the stage or place is none of the world's: a sentence each."""
    if not world.knows_stage(scene):
        yield _no_such("stage", "quest_stage", scene.quest_stage, persona.stages)
    if scene.location in (ANY, *persona.locations):
        return
    places = world.places
    if places and scene.location not in places:
        yield _no_such("place", "location", scene.location, persona.locations or places)


def _no_such(what: str, key: str, value: str, known: list[str]) -> str:
    names = ", ".join(known)
    shortened = value if len(value) <= _MAX_TOLD else f"{value[:_MAX_TOLD]}…"
    told = f"context.game_state.{key} is {shortened!r}, which is no {what} here ({names})"
    return f"{told}; only what is written for any {what} applies"


def _npc_state(context: AskContext, persona: NpcPersona) -> dict[str, str | float]:
    """How the NPC feels; the world's initial state fills what the request leaves out."""
    npc, initial = context.npc_state, persona.initial_state
    return {
        "trust": npc.trust if npc.trust is not None else initial.trust,
        "relationship": npc.relationship if npc.relationship is not None else initial.relationship,
        "npc_mood": npc.npc_mood or initial.npc_mood,
    }


def _state(
    context: AskContext, scene: Scene, npc_state: dict[str, str | float]
) -> dict[str, StateValue]:
    player = context.player_state
    state: dict[str, StateValue | None] = {
        "quest_stage": scene.quest_stage if scene.quest_stage != ANY else None,
        "location": scene.location if scene.location != ANY else None,
        **npc_state,
        "player_reputation": player.reputation,
        "items": player.items,
        "actions": player.actions or None,
        "position": player.position,
    }
    return {key: value for key, value in state.items() if value is not None}


def _facts(
    context: AskContext, scene: Scene, npc_state: dict[str, str | float], utterance: str
) -> Facts:
    """What the world's conditions are held against."""
    player = context.player_state
    game = {key: value for key, value in context.game_state.items() if value is not None}
    position = {"position": player.position} if isinstance(player.position, str) else {}
    return Facts(
        scene=scene,
        utterance=utterance,
        items=player.items,
        actions=player.actions,
        game_state=game,
        npc_state=npc_state,
        player_state={"reputation": player.reputation or UNKNOWN_REPUTATION, **position},
    )


def _name(value: Scalar | None) -> str | None:
    """A stage or place as text; other scalars are written out."""
    return None if value is None or value == "" else str(value)
