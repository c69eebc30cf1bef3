"""Prompt format 1: the append-only transcript, written here alone, for training and serving.

Pure text and block structure; `runtime/encoder.py` makes token ids of it.

    <SYS> who the NPC is                       once
    <CTX>                                      the conversation starts
      <RAG> description, instructions          only when they changed; notes not shown before
      <PLAYER_STATE> key=value …               only keys that changed
      <PLAYER> the utterance
      <STATE> the decision in words            the heads read this token
      <NPC> the reply, end of sequence
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

FORMAT = 1

LINE_END = "\n"
"""A line of dialogue is one paragraph: the reply ends where the model would begin another."""

COARSE_DELTA = ((0.3, "++"), (0.05, "+"), (-0.05, "="), (-0.3, "-"))
"""Lower bounds and words of a delta in the decision; below the last bound it is "--"."""

STATE_KEYS = (
    "quest_stage",
    "location",
    "trust",
    "relationship",
    "npc_mood",
    "player_reputation",
    "items",
    "actions",
    "position",
)

_KEY = re.compile(r"\s*(\w+)=")
_NPC_ID = re.compile(r"^[^\S\n]*npc_id=(.*)$", re.MULTILINE)

StateValue: TypeAlias = str | float | Sequence[str] | Sequence[float]
State: TypeAlias = Mapping[str, StateValue]


class Special(StrEnum):
    """The seven special tokens; each opens a block and so closes the one before it."""

    SYS = "<SYS>"
    CTX = "<CTX>"
    RAG = "<RAG>"
    PLAYER_STATE = "<PLAYER_STATE>"
    PLAYER = "<PLAYER>"
    STATE = "<STATE>"
    NPC = "<NPC>"


@dataclass(frozen=True, slots=True)
class End:
    """The base's end-of-sequence token."""


Segment: TypeAlias = Special | str | End
"""A special token, harmless text (never parsed for special tokens), or the end of a reply."""


@dataclass(frozen=True, slots=True)
class Npc:
    """What `<SYS>` says of an NPC, in the language of the conversation."""

    npc_id: str
    name: str
    persona: str
    style: str = ""
    lore: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn brings before the decision; with nothing new for it there is no `<RAG>`."""

    utterance: str
    state: State = field(default_factory=dict)
    description: str = ""
    instructions: str = ""
    notes: Sequence[str] = ()
    """Lore and model dialogues that the utterance calls to mind."""


@dataclass(slots=True)
class Transcript:
    """Writes a conversation block by block and remembers what it has shown.

    Nothing written is ever rewritten: each method returns only the segments to append.
    """

    _shown_rag: tuple[str, str] = ("", "")
    _shown_notes: set[str] = field(default_factory=set)
    _shown_state: dict[str, str] = field(default_factory=dict)

    def copy(self) -> "Transcript":
        """One that has shown the same, to go on from."""
        return Transcript(self._shown_rag, set(self._shown_notes), dict(self._shown_state))

    def begin(self, npc: Npc) -> list[Segment]:
        """`<SYS>` and `<CTX>`."""
        return [*write_npc(npc), Special.CTX]

    def open_turn(self, turn: Turn) -> list[Segment]:
        """From `<RAG>` (if it changed) to the `<STATE>` token, which comes last."""
        return [
            *self._rag(turn),
            *self._player_state(turn.state),
            Special.PLAYER,
            turn.utterance,
            Special.STATE,
        ]

    def past_turn(self, utterance: str, reply: str) -> list[Segment]:
        """A turn known only from a dialogue history: no state, no decision."""
        return [Special.PLAYER, utterance, Special.STATE, *decision_segments(""), reply, End()]

    def _rag(self, turn: Turn) -> list[Segment]:
        rag = (turn.description, turn.instructions)
        parts: list[str] = []
        if rag not in (self._shown_rag, ("", "")):
            self._shown_rag = rag
            parts.append(_scene(turn))
        new = [note for note in dict.fromkeys(turn.notes) if note not in self._shown_notes]
        self._shown_notes.update(new)
        parts += [_fields(note=note) for note in new]
        return [Special.RAG, "\n".join(parts)] if parts else []

    def _player_state(self, state: State) -> list[Segment]:
        written = {key: format_value(state[key]) for key in STATE_KEYS if key in state}
        changed = {k: v for k, v in written.items() if self._shown_state.get(k) != v}
        if not changed:
            return []
        self._shown_state |= changed
        return [Special.PLAYER_STATE, " ".join(f"{key}={value}" for key, value in changed.items())]


def write_npc(npc: Npc) -> list[Segment]:
    """The `<SYS>` block: the same bytes for every turn and player."""
    text = _fields(
        npc_id=npc.npc_id, name=npc.name, persona=npc.persona, style=npc.style, lore=npc.lore
    )
    return [Special.SYS, text]


def write_scene(turn: Turn) -> list[Segment]:
    """How the `<RAG>` block of a conversation's first turn begins, whatever its notes."""
    text = _scene(turn)
    return [Special.RAG, text] if text else []


def _scene(turn: Turn) -> str:
    return _fields(description=turn.description, instructions=turn.instructions)


def decision_segments(decision: str) -> list[Segment]:
    """What follows `<STATE>`: the decision's words and `<NPC>`, after which the reply begins."""
    return [decision, Special.NPC] if decision else [Special.NPC]


def fallback_prompt(npc: Npc, situation: str, utterance: str) -> list[Segment]:
    """The fallback prompt: no `<STATE>`, so nothing is decided."""
    rag: list[Segment] = [Special.RAG, _fields(description=situation)] if situation else []
    return [*write_npc(npc), *rag, Special.PLAYER, utterance, Special.NPC]


def format_decision(delta: Mapping[str, float], raised: Mapping[str, str | float | None]) -> str:
    """A decision in words: coarse deltas, then each raised flag, with its value where it has one.

    >>> format_decision({"trust": 0.12, "relationship": -0.4}, {"give_item": "gold_necklace"})
    'trust=+ relationship=-- give_item="gold_necklace"'
    """
    words = [f"{name}={coarse_delta(value)}" for name, value in delta.items()]
    words += [
        name if value is None else f"{name}={format_value(value)}" for name, value in raised.items()
    ]
    return " ".join(words)


def coarse_delta(value: float) -> str:
    """One of `++ + = - --`, by COARSE_DELTA."""
    return next((word for bound, word in COARSE_DELTA if value >= bound), "--")


def format_value(value: StateValue) -> str:
    """Text quoted and escaped, numbers with two decimals, lists in brackets."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"{value:z.2f}"  # z: never -0.00
    return "[" + ",".join(format_value(item) for item in value) + "]"


def read_last_turn(segments: Sequence[Segment]) -> tuple[str, str, State]:
    """NPC id, utterance and full state of a prompt's last turn, as far as it tells them."""
    npc_id, utterance = "", ""
    state: dict[str, StateValue] = {}
    block: Segment = ""
    for segment in segments:
        if isinstance(segment, Special):
            block = segment
        elif not isinstance(segment, str):
            continue
        elif block is Special.SYS:
            found = _NPC_ID.search(segment)
            npc_id = found[1].strip() if found else ""
        elif block is Special.PLAYER_STATE:
            state |= _read_state(segment)
        elif block is Special.PLAYER:
            utterance = segment.strip()
    return npc_id, utterance, state


def _read_state(text: str) -> dict[str, StateValue]:
    """The pairs that _player_state wrote; where somebody else did, those before the first flaw."""
    state: dict[str, StateValue] = {}
    read, at = json.JSONDecoder(parse_constant=_refuse).raw_decode, 0
    while found := _KEY.match(text, at):
        try:
            value, at = read(text, found.end())
        except (ValueError, RecursionError):
            break
        items = value if isinstance(value, list) else [value]
        if found[1] in STATE_KEYS and all(isinstance(item, (str, int, float)) for item in items):
            state[found[1]] = value
    return state


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _fields(**fields: str) -> str:
    return "\n".join(f"{key}={value}" for key, value in fields.items() if value)
