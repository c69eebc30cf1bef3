"""Which past a turn goes on from, and what is remembered of it once it is delivered."""

from array import array
from dataclasses import replace
from weakref import ref

from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.prompt import End, Segment
from server.fallback import Reason
from server.preprocess import clean_text
from server.progress import Progress
from server.schemas import AskRequest, HistoryTurn
from server.sessions import Conversation, History, Written
from server.turn import AskedTurn


def recall_history(
    ask: AskRequest, turn: AskedTurn, conversation: Conversation
) -> tuple[AskedTurn, History]:
    """The turn with the past that it goes on from; the conversation begins anew where they differ.

    A request's dialogue history is the authority; one without any goes on from what we remember.
    """
    told = turn.history
    history: History = "continued" if conversation.turns else "fresh"
    conversation.num_left_out = 0
    if ask.history is not None and not conversation.continues_with(told):
        history = "rebuilt" if told else "fresh"
        conversation.restart(told)
    if ask.continues and ask.history is None and not conversation.turns:
        history = "lost"
    if ask.lang is None and conversation.lang is not None and conversation.turns:
        turn = replace(turn, lang=conversation.lang)
    elif conversation.lang not in (None, turn.lang):
        conversation.written = None  # her block is in another language
    return turn, history


def remember(progress: Progress, world: World, encoder: PromptEncoder) -> None:
    """Append a turn to its conversation, if the client was told of its state.

    One that was too long for a prompt is not: it would leave no room for any other.
    """
    if not progress.is_state_sent or progress.fault is Reason.PROMPT_TOO_LONG:
        return
    conversation, turn = progress.conversation, progress.turn
    conversation.lang = turn.lang
    said = HistoryTurn(turn.utterance, clean_text(progress.text))  # as a history would tell it
    conversation.append(said, _written(progress, said, world, encoder))


def _written(
    progress: Progress, said: HistoryTurn, world: World, encoder: PromptEncoder
) -> Written | None:
    """The transcript with the turn as it was delivered; None where none has been written yet."""
    written, prompt = progress.conversation.written, progress.prompt
    if progress.decided and prompt is not None:
        ending: list[Segment] = [said.npc, End()]
        tokens = [*prompt.tokens, *progress.decision_tokens, *encoder.encode(ending)]
        segments = [*prompt.segments, *progress.decided, *ending]
        ids = array("i", tokens)
        return Written(
            ref(world), progress.turn.npc, prompt.transcript, ids, segments, prompt.prefixes
        )
    if written is None or not written.is_of(world, progress.turn.npc):
        return None
    told = written.transcript.past_turn(said.player, said.npc)
    longer = written.tokens + array("i", encoder.encode(told))
    return replace(written, tokens=longer, segments=[*written.segments, *told])
