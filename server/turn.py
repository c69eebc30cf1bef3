"""One request, read against the world: who is asked, where, and with which prompt."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from rag.conditions import UNKNOWN_REPUTATION, Facts
from rag.documents import ANY, Lang, NpcPersona, Scalar
from rag.language import detect_language
from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.scopes import Scene
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.errors import PromptTooLong
from runtime.prompt import Npc, StateValue, Transcript, Turn
from server.errors import UnknownNpc
from server.preprocess import clean_text, utterance_of
from server.schemas import AskRequest, HistoryTurn


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

    @property
    def scene(self) -> Scene:
        """Where the conversation stands."""
        return self.facts.scene

    @property
    def utterance(self) -> str:
        """What the player said, cleaned."""
        return self.facts.utterance


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """Token ids that end with `<STATE>`, and how many old turns did not fit."""

    tokens: list[int]
    num_dropped: int


def read_turn(ask: AskRequest, world: World) -> AskedTurn:
    """The turn that `ask` asks for; the world fills what it leaves out.

    Raises UnknownNpc or InvalidField.
    """
    persona = world.npcs.get(ask.npc_id)
    if persona is None:
        known = ", ".join(sorted(world.npcs))
        raise UnknownNpc(f"the world has no NPC {ask.npc_id!r}; it has {known}")
    utterance = utterance_of(ask.text, ask.user_input)
    history = [
        HistoryTurn(clean_text(turn.player), clean_text(turn.npc)) for turn in ask.history or []
    ]
    game = ask.context.game_state
    stage = _name(game.get("quest_stage")) or next(iter(persona.stages), ANY)
    location = _name(game.get("location")) or next(iter(persona.locations), ANY)
    scene = Scene(ask.npc_id, stage, location)
    npc_state = _npc_state(ask, persona)
    first_words = history[0].player if history else utterance
    return AskedTurn(
        turn_id=uuid.uuid4().hex,
        session_id=ask.session_id or f"{ask.player_id}:{ask.npc_id}",
        persona=persona,
        lang=ask.lang or detect_language(first_words, persona.lang),
        state=_state(ask, scene, npc_state),
        facts=_facts(ask, scene, npc_state, utterance),
        history=history,
    )


def build_prompt(turn: AskedTurn, world: World, encoder: PromptEncoder, budget: int) -> BuiltPrompt:
    """The transcript of the history and this turn, in at most `budget` tokens.

    The oldest half of the history goes at once, as often as is needed. Raises PromptTooLong when
    the turn does not fit even alone.
    """
    transcript = Transcript()
    npc: Npc = npc_for_prompt(turn.persona, turn.lang)
    head = encoder.begin(transcript.begin(npc))
    description, instructions = rag_for_prompt(world, turn.scene, turn.lang)
    asked = Turn(turn.utterance, turn.state, description, instructions)
    tail = encoder.encode(transcript.open_turn(asked))
    room = budget - len(head) - len(tail)
    if room < 0:
        raise PromptTooLong(
            f"the NPC's description and this turn take {budget - room} tokens, the budget is "
            f"{budget}; raise PERSONA_PROMPT_TOKENS or shorten the text"
        )
    past = _recent_turns(turn.history, transcript, encoder, room)
    tokens = [*head, *(token for tokens in past for token in tokens), *tail]
    return BuiltPrompt(tokens, len(turn.history) - len(past))


def _recent_turns(
    history: Sequence[HistoryTurn], transcript: Transcript, encoder: PromptEncoder, room: int
) -> list[list[int]]:
    """The encoded newest turns of `history` that fit `room`, halving it until they do."""
    fitting: list[list[int]] = []
    for turn in reversed(history):
        tokens = encoder.encode(transcript.past_turn(turn.player, turn.npc))
        if (room := room - len(tokens)) < 0:
            break
        fitting.append(tokens)
    count = len(history)
    while count > len(fitting):
        count //= 2
    return fitting[:count][::-1]


def _npc_state(ask: AskRequest, persona: NpcPersona) -> dict[str, str | float]:
    """How the NPC feels; the world's initial state fills what the request leaves out."""
    npc, initial = ask.context.npc_state, persona.initial_state
    return {
        "trust": npc.trust if npc.trust is not None else initial.trust,
        "relationship": npc.relationship if npc.relationship is not None else initial.relationship,
        "npc_mood": npc.npc_mood or initial.npc_mood,
    }


def _state(
    ask: AskRequest, scene: Scene, npc_state: dict[str, str | float]
) -> dict[str, StateValue]:
    player = ask.context.player_state
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
    ask: AskRequest, scene: Scene, npc_state: dict[str, str | float], utterance: str
) -> Facts:
    """What the world's conditions are held against."""
    player = ask.context.player_state
    game = {key: value for key, value in ask.context.game_state.items() if value is not None}
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
