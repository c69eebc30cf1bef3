"""Labelled conversations as the transcripts that serving would write: for trainer and reader alike.

Turns are written in both forms that are served: in a transcript that the server remembers (states
and decisions shown), and after a past that is known from a dialogue history alone.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from heads.clues import Remark
from rag.conditions import UNKNOWN_REPUTATION
from rag.flags import flag_rule
from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.prompt import (
    End,
    Special,
    StateValue,
    Transcript,
    Turn,
    decision_segments,
    format_decision,
)
from train.dataset import TurnLabel

Notes = Callable[[TurnLabel], Sequence[str]]
"""The lore and dialogues that a turn calls to mind."""


def no_notes(_: TurnLabel) -> Sequence[str]:
    """Nothing is called to mind."""
    return ()


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """A turn as token ids; `asked` ends with `<STATE>`, `answered` with the end of sequence."""

    label: TurnLabel
    asked: list[int]
    decided: list[int]
    """The decision's words and `<NPC>`."""
    answered: list[int]

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole turn."""
        return len(self.asked) + len(self.decided) + len(self.answered)


@dataclass(frozen=True, slots=True)
class EncodedTranscript:
    """A conversation as token ids: `<SYS>` and `<CTX>`, what is told of the past, the turns."""

    opening: list[int]
    told: list[int]
    turns: list[EncodedTurn]

    @property
    def num_tokens(self) -> int:
        """Tokens of all of it."""
        return len(self.opening) + len(self.told) + sum(turn.num_tokens for turn in self.turns)


@dataclass(frozen=True, slots=True)
class TranscriptWriter:
    """Writes labelled conversations in the words of `world` and the ids of `encoder`."""

    world: World
    encoder: PromptEncoder
    notes: Notes = no_notes

    def write(self, turns: Sequence[TurnLabel], start: int = 0) -> EncodedTranscript:
        """The conversation `turns`, those before `start` as a dialogue history tells them."""
        transcript, opening = self._begin(turns[0])
        encode = self.encoder.encode
        told = [
            segment
            for turn in turns[:start]
            for segment in transcript.past_turn(turn.player_utterance, turn.response)
        ]
        written = [
            EncodedTurn(
                label,
                encode(transcript.open_turn(make_turn(label, self.world, self.notes(label)))),
                encode(decision_segments(decision_words(label, self.world))),
                encode([label.response, End()]),
            )
            for label in turns[start:]
        ]
        return EncodedTranscript(opening, encode(told), written)

    def write_alone(self, label: TurnLabel) -> EncodedTranscript:
        """A turn as the first of its conversation, up to `<STATE>`; the scene opens it."""
        transcript, opening = self._begin(label)
        encode = self.encoder.encode
        turn = transcript.open_turn(make_turn(label, self.world))
        scene_end = turn.index(Special.PLAYER_STATE)
        opening += encode(turn[:scene_end])
        return EncodedTranscript(
            opening, [], [EncodedTurn(label, encode(turn[scene_end:]), [], [])]
        )

    def _begin(self, label: TurnLabel) -> tuple[Transcript, list[int]]:
        """A transcript that begins with `label`, and its `<SYS>` and `<CTX>`."""
        transcript = Transcript()
        npc = npc_for_prompt(self.world.npcs[label.npc_id], label.lang)
        return transcript, self.encoder.begin(transcript.begin(npc))


def make_turn(label: TurnLabel, world: World, notes: Sequence[str] = ()) -> Turn:
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
    return Turn(label.player_utterance, shown, description, instructions, notes)


def remark_of(label: TurnLabel, world: World) -> Remark:
    """What the heads are told of a labelled turn beside its `<STATE>`."""
    turn = make_turn(label, world)
    return Remark(label.npc_id, turn.utterance, turn.state)


def decision_words(label: TurnLabel, world: World) -> str:
    """The decision that the labels stand for, in the words that serving would write."""
    raised = [name for name, is_raised in label.flag.items() if is_raised]
    return words_of(label, world, label.delta, raised)


def words_of(
    label: TurnLabel, world: World, delta: Mapping[str, float], raised: Sequence[str]
) -> str:
    """A decision on the turn of `label` in words, with the values that the world gives flags."""
    values = {}
    for name in raised:
        document = flag_rule(world, label.facts, name).document
        values[name] = document.value if document else None
    return format_decision(delta, values)
