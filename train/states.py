"""State vectors of a labelled dataset, taken from the GGUF that will serve.

Turns are read in both forms that are served: in the transcript that the server remembers (past
states and decisions shown), and, the last turn of each conversation, in one rebuilt from a
dialogue history alone.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from rag.conditions import UNKNOWN_REPUTATION
from rag.flags import flag_rule
from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.llama_backend import Chunk, LlamaContext, Vector
from runtime.prompt import End, StateValue, Transcript, Turn, decision_segments, format_decision
from train.dataset import TurnLabel


class Form(StrEnum):
    """How a turn's past is told."""

    CONTINUED = "continued"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True)
class LabelledState:
    """A turn, the form it was read in, and its `<STATE>` vector, float32 [n_embd]."""

    label: TurnLabel
    form: Form
    vector: Vector


_SYS, _CONVERSATION = range(2)
NUM_SEQUENCES = 2
"""Sequences that the reader needs: the NPC's block and the conversation."""


class StateReader:
    """Evaluates conversations on one context, each NPC's `<SYS>` block once."""

    def __init__(self, context: LlamaContext, encoder: PromptEncoder, world: World) -> None:
        self._context, self._encoder, self._world = context, encoder, world
        self._sys: list[int] = []

    def read(
        self,
        conversations: Iterable[Sequence[TurnLabel]],
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> list[LabelledState]:
        """The states of all turns, and of each conversation's last turn rebuilt, if it has a past.

        `on_progress` is called with the number of turns read since its last call.
        """
        states: list[LabelledState] = []
        for turns in sorted(conversations, key=lambda turns: (turns[0].npc_id, turns[0].lang)):
            self._begin(turns[0])
            states += self._continued(turns)
            if len(turns) > 1:
                states.append(self._rebuilt(turns))
            on_progress(len(turns))
        return states

    def _begin(self, first: TurnLabel) -> None:
        npc = npc_for_prompt(self._world.npcs[first.npc_id], first.lang)
        tokens = self._encoder.begin(Transcript().begin(npc))
        if tokens != self._sys:
            self._context.clear()
            self._sys = tokens
            self._append(_SYS, tokens, 0)

    def _restart(self) -> int:
        self._context.forget(_CONVERSATION)
        self._context.share(_SYS, _CONVERSATION, len(self._sys))
        return len(self._sys)

    def _continued(self, turns: Sequence[TurnLabel]) -> list[LabelledState]:
        transcript, position, states = Transcript(), self._restart(), []
        for label in turns:
            asked = self._encoder.encode(transcript.open_turn(make_turn(label, self._world)))
            position = self._append(_CONVERSATION, asked[:-1], position)
            states.append(LabelledState(label, Form.CONTINUED, self._state(asked, position)))
            position += 1
            answered = [*decision_segments(decision_words(label, self._world)), label.response]
            position = self._append(
                _CONVERSATION, self._encoder.encode([*answered, End()]), position
            )
        return states

    def _rebuilt(self, turns: Sequence[TurnLabel]) -> LabelledState:
        transcript, position = Transcript(), self._restart()
        *past, last = turns
        told = [
            s for turn in past for s in transcript.past_turn(turn.player_utterance, turn.response)
        ]
        asked = self._encoder.encode([*told, *transcript.open_turn(make_turn(last, self._world))])
        position = self._append(_CONVERSATION, asked[:-1], position)
        return LabelledState(last, Form.REBUILT, self._state(asked, position))

    def _append(self, seq_id: int, tokens: Sequence[int], position: int) -> int:
        size = self._context.config.n_batch
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            self._context.decode([Chunk(seq_id, position + start, part, is_output=False)])
        return position + len(tokens)

    def _state(self, asked: Sequence[int], position: int) -> Vector:
        chunk = Chunk(_CONVERSATION, position, asked[-1:], is_output=True)
        (row,) = self._context.decode([chunk], embeddings=True)
        return self._context.embedding(row)


def make_turn(label: TurnLabel, world: World) -> Turn:
    """The prompt's turn of a labelled one, with the `<RAG>` block that serving would show."""
    tags, player = label.tags, label.context.player_state
    description, instructions = rag_for_prompt(world, label.facts.scene, label.lang)
    is_known = tags.player_reputation != UNKNOWN_REPUTATION
    state: dict[str, StateValue | None] = {
        "quest_stage": tags.quest_stage,
        "location": tags.location,
        "trust": tags.trust,
        "relationship": tags.relationship,
        "npc_mood": tags.npc_mood,
        "player_reputation": tags.player_reputation if is_known else None,
        "items": player.items,
        "actions": player.actions or None,
        "position": player.position,
    }
    shown = {key: value for key, value in state.items() if value is not None}
    return Turn(label.player_utterance, shown, description, instructions)


def decision_words(label: TurnLabel, world: World) -> str:
    """The decision that the labels stand for, in the words that serving would write."""
    raised = {}
    for name, is_raised in label.flag.items():
        if is_raised:
            document = flag_rule(world, label.facts, name).document
            raised[name] = document.value if document else None
    return format_decision(label.delta, raised)


def stack(states: Sequence[LabelledState]) -> Vector:
    """The vectors of `states`, float32 [len(states), n_embd]."""
    return np.stack([state.vector for state in states])
