"""What conversations have come to: a bounded table of transcripts that turns are appended to.

A conversation is known by session and NPC. Its transcript is appended to and never rewritten, so
the KV cache that holds it is used again; where a request tells another past, it is written anew.
"""

import asyncio
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Literal, TypeAlias
from weakref import ReferenceType

from rag.documents import Lang
from rag.world import World
from runtime.errors import Overloaded
from runtime.prompt import Npc, Segment, Transcript
from server.schemas import HistoryTurn
from server.shares import to_forget

Key: TypeAlias = tuple[str, str, str]
"""Session, NPC, and whose session it is: two API keys never share one."""
History: TypeAlias = Literal["continued", "rebuilt", "fresh", "lost"]

MAX_USERS = 8
"""Turns of one conversation that may be in flight: one runs, the others wait."""
MAX_TURNS = 256
"""Turns of one conversation that are remembered; the prompt's budget is reached long before."""


class SessionBusy(Overloaded):
    """A conversation has too many turns in flight."""


@dataclass(frozen=True, slots=True)
class Written:
    """A transcript as it was written for one world: what it has shown, its token ids and text."""

    world: ReferenceType[World]
    """Weak: the world before a reload is let go of, however many conversations were in it."""
    npc: Npc
    transcript: Transcript
    tokens: "array[int]"
    segments: list[Segment]
    prefixes: tuple[int, ...]
    """As in BuiltPrompt."""

    def is_of(self, world: World, npc: Npc) -> bool:
        """Whether it was written for these; either may have been replaced since."""
        return self.world() is world and self.npc == npc


@dataclass(slots=True)
class Conversation:
    """The turns that were delivered, as far as they are still told, and the transcript of them."""

    turns: list[HistoryTurn] = field(default_factory=list)
    is_cut: bool = False
    """Whether older turns are told no more."""
    num_left_out: int = 0
    """Turns of this request's history that were too many to keep."""
    lang: Lang | None = None
    written: Written | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    num_users: int = 0
    """Turns that run or wait: the conversation is not forgotten meanwhile."""

    def continues_with(self, told: Sequence[HistoryTurn]) -> bool:
        """Whether a request's history is what we remember, as far as both go back.

        Clients cut what they send, and we what we keep.
        """
        count = min(len(told), len(self.turns))
        reaches_back = len(told) <= len(self.turns) or self.is_cut
        return count > 0 and reaches_back and list(told[-count:]) == self.turns[-count:]

    def restart(self, turns: Sequence[HistoryTurn]) -> None:
        """Let the past be the last MAX_TURNS of `turns`; the transcript is written anew."""
        self.num_left_out = max(0, len(turns) - MAX_TURNS)
        self.turns, self.is_cut = list(turns[self.num_left_out :]), self.num_left_out > 0
        self.written = self.lang = None

    def forget_oldest(self, count: int) -> None:
        """Tell the first `count` turns no more; the transcript is written anew."""
        self.turns, self.written, self.is_cut = self.turns[count:], None, True

    def append(self, turn: HistoryTurn, written: Written | None) -> None:
        """A turn that was delivered, and the transcript with it, if it goes on."""
        self.turns.append(turn)
        self.written = written
        if len(self.turns) > MAX_TURNS:
            self.forget_oldest(MAX_TURNS // 2)


class Sessions:
    """At most `limit` conversations.

    Of the API key that has most, the one longest out of use is forgotten first.
    """

    def __init__(self, limit: int = 1_024) -> None:
        self._limit = limit
        self._conversations: OrderedDict[Key, Conversation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._conversations)

    @asynccontextmanager
    async def turn(self, key: Key, patience_s: float) -> AsyncIterator[Conversation]:
        """The conversation `key` for one turn; the next turn of it waits.

        Raises SessionBusy where MAX_USERS are in flight, TimeoutError where the one that runs does
        not end in `patience_s` seconds.
        """
        conversation = self._conversations.setdefault(key, Conversation())
        if conversation.num_users >= MAX_USERS:
            raise SessionBusy(f"{MAX_USERS} turns of session {key[0]!r} are in flight already")
        conversation.num_users += 1
        try:
            async with asyncio.timeout(patience_s):
                await conversation.lock.acquire()
            try:
                yield conversation
            finally:
                conversation.lock.release()
        finally:
            conversation.num_users -= 1
            self._conversations.move_to_end(key)
            self._forget()

    def _forget(self) -> None:
        excess = len(self._conversations) - self._limit
        if excess <= 0:
            return
        idle = (key for key, c in self._conversations.items() if not c.num_users)
        for key in to_forget(idle, excess, owner_of=itemgetter(2)):
            del self._conversations[key]
