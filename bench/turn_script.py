"""One long conversation for `persona bench turns`, and how a peer's prompt is written from it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Protocol, TypeVar

from rag.documents import Lang
from runtime.encoder import PromptEncoder
from runtime.prompt import End, Special
from server.schemas import (
    AskContext,
    AskRequest,
    GenParams,
    HistoryTurn,
    NpcState,
    PlayerState,
)
from train.dataset import DatasetError, TurnLabel, conversations

T = TypeVar("T")


def lines_of(turns: Sequence[TurnLabel], npc_id: str, lang: Lang) -> list[TurnLabel]:
    """What is said to an NPC, conversation by conversation. Raises DatasetError if nothing is."""
    own = [turn for turn in turns if turn.npc_id == npc_id and turn.lang == lang]
    if not own:
        known = ", ".join(sorted({f"{turn.npc_id} ({turn.lang})" for turn in turns}))
        raise DatasetError(
            f"nobody speaks to {npc_id!r} in {lang!r} there; somebody does to {known}"
        )
    return [turn for part in conversations(own).values() for turn in part]


def longer(lines: Sequence[T], count: int) -> list[T]:
    """`count` of them, from the first on again where there are fewer."""
    return list(islice(cycle(lines), count))


def make_ask(
    line: TurnLabel, session_id: str, history: Sequence[HistoryTurn], max_tokens: int
) -> AskRequest:
    """The request of a game server that tells the whole past, greedy; no condition stops it."""
    tags, player = line.tags, line.context.player_state
    return AskRequest(
        npc_id=line.npc_id,
        player_id="player",
        session_id=session_id,
        text=line.player_utterance,
        lang=line.lang,
        context=AskContext(
            player_state=PlayerState(
                items=player.items,
                actions=player.actions,
                position=player.position,
                reputation=tags.player_reputation,
            ),
            game_state={"quest_stage": tags.quest_stage, "location": tags.location},
            npc_state=NpcState(
                trust=tags.trust, relationship=tags.relationship, npc_mood=tags.npc_mood
            ),
        ),
        dialogue_history=list(history),
        precheck_passed=True,
        gen_params=GenParams(temperature=0, max_tokens=max_tokens),
    )


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """A turn as our transcript has it, and as a prompt that is written anew each time would.

    All in token ids. `opening` is what the transcript grows by, up to and with `<STATE>`: with
    the first turn that is all of it. `head` is everything that such a prompt has before the
    history, `words` the utterance with `<PLAYER>`; `decision` follows `<STATE>`.
    """

    opening: list[int]
    head: list[int]
    words: list[int]
    decision: list[int]
    num_reply: int


class Layout(Protocol):
    """How a peer's conversation becomes prompts."""

    def prompt(self, turn: ScriptedTurn) -> list[int]:
        """The whole prompt of a turn, up to and with `<STATE>`."""

    def hear(self, turn: ScriptedTurn, reply: Sequence[int]) -> None:
        """The peer's reply, which belongs to the past from now on."""


@dataclass(slots=True)
class AppendOnly:
    """Our transcript: nothing that was written changes."""

    encoder: PromptEncoder
    _tokens: list[int] = field(default_factory=list)

    def prompt(self, turn: ScriptedTurn) -> list[int]:
        """See Layout."""
        self._tokens += turn.opening
        return list(self._tokens)

    def hear(self, turn: ScriptedTurn, reply: Sequence[int]) -> None:
        """See Layout."""
        self._tokens += [*turn.decision, *reply, *self.encoder.encode([End()])]


@dataclass(slots=True)
class Rewritten:
    """The usual way: who the NPC is, where the game stands now, the history, the utterance."""

    encoder: PromptEncoder
    _past: list[int] = field(default_factory=list)

    def prompt(self, turn: ScriptedTurn) -> list[int]:
        """See Layout."""
        return [*turn.head, *self._past, *turn.words, self.encoder.state_id]

    def hear(self, turn: ScriptedTurn, reply: Sequence[int]) -> None:
        """See Layout."""
        (npc,) = self.encoder.encode([Special.NPC])
        self._past += [*turn.words, npc, *reply, *self.encoder.encode([End()])]


def residents(
    turns: Sequence[TurnLabel], num_turns: int
) -> Iterator[tuple[TurnLabel, list[HistoryTurn]]]:
    """Line after line of other players, each with a past of `num_turns`, NPC by NPC in turn."""
    by_npc: dict[tuple[str, Lang], list[TurnLabel]] = {}
    for turn in turns:
        by_npc.setdefault((turn.npc_id, turn.lang), []).append(turn)
    voices = [cycle(lines) for lines in by_npc.values()]
    for voice in cycle(voices):
        said = list(islice(voice, num_turns + 1))
        past = [HistoryTurn(turn.player_utterance, turn.response) for turn in said[:-1]]
        yield said[-1], past
