"""Our own path in `persona bench turns`: what the server does with a turn, without HTTP."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice

import msgspec

from bench.turn_script import ScriptedTurn, make_ask, residents
from bench.turns_figures import Measured, OurTokens, OurTurn, counted
from rag.prompting import npc_for_prompt, rag_for_prompt
from runtime.encoder import PromptEncoder
from runtime.errors import RuntimeFault
from runtime.prompt import End, Special, Transcript, Turn, write_npc
from server.pipeline import Dialogue
from server.schemas import Answer, AskRequest, HistoryTurn, StateEvent
from server.service import Service
from train.dataset import TurnLabel

RESIDENT_TURNS = 6
"""A past of so many turns makes a conversation of 500 tokens or so with the demo world."""
_PATIENCE_S = 60.0
_TRIES = 4
"""Of so many others one at least gets an answer of the model."""


class TurnFailed(RuntimeFault):
    """A turn did not come to what is measured."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """The turns of one run, None where the line was not the model's first.

    `script` has the others' token ids, for those who shall say the same.
    """

    turns: list[OurTurn | None]
    script: list[ScriptedTurn]


class OurSide:
    """A service that speaks lines, with `num_residents` conversations of others in its KV cache."""

    def __init__(self, runner: asyncio.Runner, service: Service, num_residents: int) -> None:
        name = f"ours, {num_residents} others"
        self.times, self.tokens = Measured(name), OurTokens(name)
        self._runner = runner
        self.num_residents = num_residents
        self._service = service
        self._dialogue: Dialogue = service.dialogue
        self._encoder: PromptEncoder = service.loaded.encoder
        self._num_said = 0
        self._others: list[tuple[TurnLabel, list[HistoryTurn]]] = []

    @property
    def num_cells_of_others(self) -> int:
        """KV cells that the residents hold, of which our conversation before is one."""
        return self._service.engine.stats.num_resident_cells if self.num_residents else 0

    def note(self, turns: Sequence[OurTurn | None]) -> None:
        """Count what a run came to."""
        counting = counted(turns)
        self.times.runs.append(counting)
        self.tokens.runs.append(counting)
        self.tokens.num_left_out += len(turns) - 1 - len(counting)
        stats = self._service.engine.stats
        self.tokens.num_residents = stats.num_residents
        self.tokens.num_resident_cells = stats.num_resident_cells

    def let_others_speak(self, turns: Sequence[TurnLabel]) -> None:
        """Make others the last that spoke, so that our oldest conversation goes first.

        They say the same each time: once they are resident it costs little. One of the
        `num_residents` is our conversation before. Raises TurnFailed if the others don't stay.
        """
        num_others = max(0, self.num_residents - 1)
        told = self._others or residents(turns, RESIDENT_TURNS)
        self._others = []
        for at, (line, past) in enumerate(islice(told, _TRIES * num_others)):
            answer, _, _ = self._runner.run(self._ask(make_ask(line, f"other {at}", past, 1)))
            if answer.meta.path == "main":
                self._others.append((line, past))
            if len(self._others) == num_others:
                break
        found = self._service.engine.stats.num_residents
        if found < num_others:
            raise TurnFailed(
                f"only {found} of {num_others} conversations stay in the KV cache; "
                "ask for fewer --residents"
            )

    def converse(self, lines: Sequence[TurnLabel], max_tokens: int) -> Conversation:
        """Say all lines in a session of its own."""
        self._num_said += 1
        found = Conversation([], [])
        history: list[HistoryTurn] = []
        for line in _with_number(lines, self._num_said):
            ask = make_ask(line, f"run {self._num_said}", history, max_tokens)
            answer, state, total = self._runner.run(self._ask(ask))
            history.append(HistoryTurn(line.player_utterance, answer.text))
            if answer.meta.path != "main" or answer.meta.text_source != "model":
                found.turns.append(None)
                continue
            prompt = self._runner.run(self._prompt_of(answer))
            found.script.append(self._scripted(ask, prompt, answer))
            found.turns.append(_turn_of(answer, found.script[-1], state, total))
        return found

    async def _ask(self, ask: AskRequest) -> tuple[Answer, float, float]:
        """The answer; seconds until the state was told, and until all was."""
        start = time.perf_counter()
        state = answer = None
        turn = self._dialogue.read(ask)
        async with aclosing(self._dialogue.answer(ask, turn)) as events:
            async for event in events:
                if isinstance(event, StateEvent):
                    state = time.perf_counter() - start
                elif isinstance(event, Answer):
                    answer = event
        total = time.perf_counter() - start
        assert state is not None, "a state is told before the answer"
        assert answer is not None, "the answer comes last"
        return answer, state, total

    async def _prompt_of(self, answer: Answer) -> list[int]:
        """Token ids up to and with `<NPC>`, from the transcript that remembers the turn."""
        key = answer.meta.session_id, answer.meta.npc_id, ""
        async with self._dialogue.sessions.turn(key, _PATIENCE_S) as conversation:
            assert conversation.written is not None, "a turn of the main path is remembered"
            return list(conversation.written.tokens[: answer.meta.usage.prompt_tokens])

    def _scripted(self, ask: AskRequest, prompt: list[int], answer: Answer) -> ScriptedTurn:
        (end,), (player,) = (self._encoder.encode([part]) for part in (End(), Special.PLAYER))
        at = _last(prompt, self._encoder.state_id)
        start = _last(prompt[:at], end) + 1
        return ScriptedTurn(
            opening=prompt[start : at + 1],
            head=self._head(ask),
            words=prompt[_last(prompt[:at], player) : at],
            decision=prompt[at + 1 :],
            num_reply=answer.meta.usage.completion_tokens,
        )

    def _head(self, ask: AskRequest) -> list[int]:
        asked, world = self._dialogue.read(ask), self._dialogue.world
        description, instructions = rag_for_prompt(world, asked.scene, asked.lang)
        turn = Turn("", asked.state, description, instructions)
        shown = Transcript().open_turn(turn)
        upto = shown.index(Special.PLAYER)
        npc = write_npc(npc_for_prompt(asked.persona, asked.lang))
        return self._encoder.begin([*npc, *shown[:upto], Special.CTX])


def _with_number(lines: Sequence[TurnLabel], number: int) -> list[TurnLabel]:
    """The lines with a number before the first: no conversation is to be found in the KV cache."""
    first = f"{number}. {lines[0].player_utterance}"
    return [msgspec.structs.replace(lines[0], player_utterance=first), *lines[1:]]


def _turn_of(answer: Answer, scripted: ScriptedTurn, state_s: float, total_s: float) -> OurTurn:
    usage, first_token = answer.meta.usage, answer.meta.timings_ms.first_token
    assert first_token is not None, "the model said something"
    return OurTurn(
        num_own=len(scripted.opening) + len(scripted.decision),
        num_evaluated=usage.prompt_tokens - usage.cached_tokens,
        num_prompt=usage.prompt_tokens,
        num_reply=usage.completion_tokens,
        state_ms=state_s * 1e3,
        first_token_ms=first_token,
        total_ms=total_s * 1e3,
        history=answer.meta.history,
    )


def _last(tokens: Sequence[int], wanted: int) -> int:
    """Where `wanted` stands last; -1 where it does not."""
    return next((at for at in reversed(range(len(tokens))) if tokens[at] == wanted), -1)
