"""The prompt of a turn: the history and the turn itself, within a budget of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rag.prompting import npc_for_prompt, rag_for_prompt
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.errors import PromptTooLong
from runtime.prefix_cache import num_shared
from runtime.prompt import Segment, Special, Transcript, Turn, write_scene
from server.explanation import ExplainedBlock
from server.schemas import HistoryTurn
from server.sessions import Written
from server.turn import AskedTurn


@dataclass(frozen=True, slots=True)
class BuiltPrompt:
    """Token ids that end with `<STATE>`, and how many old turns did not fit."""

    tokens: list[int]
    num_dropped: int
    segments: list[Segment] = field(default_factory=list)
    """What the tokens say, for `explain`."""
    transcript: Transcript = field(default_factory=Transcript)
    """What they have shown: the next turn is appended to it."""
    prefixes: tuple[int, ...] = ()
    """Tokens of the NPC's block, and with the scene's: her other conversations begin so too."""


def build_prompt(
    turn: AskedTurn, world: World, encoder: PromptEncoder, budget: int, notes: Sequence[str] = ()
) -> BuiltPrompt:
    """The transcript of the history and this turn, in at most `budget` tokens.

    The oldest half of the history goes at once, as often as is needed. Raises PromptTooLong when
    the turn does not fit even alone.
    """
    transcript = Transcript()
    opening = transcript.begin(turn.npc)
    head = encoder.begin(opening)
    asked = _asked(turn, world, notes)
    closing = transcript.open_turn(asked)
    tail = encoder.encode(closing)
    room = budget - len(head) - len(tail)
    if room < 0:
        raise PromptTooLong(
            f"the NPC's description and this turn take {budget - room} tokens, the budget is "
            f"{budget}; raise PERSONA_PROMPT_TOKENS or shorten the text"
        )
    past = _recent_turns(turn.history, transcript, encoder, room)
    tokens = [*head, *(token for _, ids in past for token in ids), *tail]
    segments = [*opening, *(part for parts, _ in past for part in parts), *closing]
    if turn.npc != npc_for_prompt(world.npcs[turn.persona.npc_id], turn.lang):
        return BuiltPrompt(tokens, len(turn.history) - len(past), segments, transcript)
    prefixes: tuple[int, ...] = (len(head),)
    if not past and (scene := encoder.encode(write_scene(asked))):
        # the last of its tokens may end otherwise where a note follows
        prefixes = (len(head), len(head) + num_shared(scene, tail, 0))
    return BuiltPrompt(tokens, len(turn.history) - len(past), segments, transcript, prefixes)


def append_turn(
    written: Written,
    turn: AskedTurn,
    world: World,
    encoder: PromptEncoder,
    notes: Sequence[str] = (),
) -> BuiltPrompt:
    """The transcript `written` for `world` with this turn appended; it is left as it is."""
    transcript = written.transcript.copy()
    closing = transcript.open_turn(_asked(turn, world, notes))
    tokens = [*written.tokens, *encoder.encode(closing)]
    segments = [*written.segments, *closing]
    return BuiltPrompt(tokens, 0, segments, transcript, written.prefixes)


def _asked(turn: AskedTurn, world: World, notes: Sequence[str]) -> Turn:
    description, instructions = rag_for_prompt(world, turn.scene, turn.lang)
    return Turn(turn.utterance, turn.state, description, instructions, notes)


def explain_blocks(segments: Sequence[Segment], encoder: PromptEncoder) -> list[ExplainedBlock]:
    """The blocks of a prompt with their sizes; the special token that opens one counts."""
    blocks: list[list[Segment]] = []
    for segment in segments:
        if isinstance(segment, Special) or not blocks:
            blocks.append([])
        blocks[-1].append(segment)
    return [
        ExplainedBlock(
            str(block[0]).strip("<>"),
            len(encoder.encode(block)),
            "".join(part for part in block[1:] if isinstance(part, str)),
        )
        for block in blocks
    ]


def _recent_turns(
    history: Sequence[HistoryTurn], transcript: Transcript, encoder: PromptEncoder, room: int
) -> list[tuple[list[Segment], list[int]]]:
    """The newest turns of `history` that fit `room`, halving it until they do, with their ids."""
    fitting: list[tuple[list[Segment], list[int]]] = []
    for turn in reversed(history):
        segments = transcript.past_turn(turn.player, turn.npc)
        tokens = encoder.encode(segments)
        if (room := room - len(tokens)) < 0:
            break
        fitting.append((segments, tokens))
    count = len(history)
    while count > len(fitting):
        count //= 2
    return fitting[:count][::-1]
