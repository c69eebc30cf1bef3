"""The dialogue pipeline: read the turn, build the prompt, run the engine, decide, clean."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from msgspec import UNSET

from heads.session import HeadsSession
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.errors import EngineStopped, Overloaded, PromptTooLong
from runtime.prompt import decision_segments
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    FinishReason,
    Request,
    State,
    Token,
    Vector,
)
from server.decide import Decision, decide, no_change
from server.fallback import AuthoredLine, Reason, authored_line
from server.reply import ReplyCleaner
from server.schemas import (
    Answer,
    AnswerMeta,
    AskRequest,
    StateEvent,
    TimingsMeta,
    TokenEvent,
    UsageMeta,
)
from server.turn import AskedTurn, build_prompt, read_turn

logger = logging.getLogger(__name__)

PipelineEvent: TypeAlias = StateEvent | TokenEvent | Answer

LINE_END = "\n"
"""A line of dialogue is one paragraph: the reply ends where the model would begin another."""


@dataclass(slots=True)
class Progress:
    """What one turn has come to so far."""

    turn: AskedTurn
    cleaner: ReplyCleaner = field(default_factory=ReplyCleaner)
    decision: Decision | None = None
    done: Done | None = None
    reason: Reason | None = None
    num_dropped: int = 0
    line: AuthoredLine | None = None

    @property
    def is_cut(self) -> bool:
        """Whether the line ends where it had to, not where it wanted to."""
        return self.done is None or self.done.finish_reason is not FinishReason.STOP


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Answers turns with one bundle and one world."""

    engine: Engine
    encoder: PromptEncoder
    heads: HeadsSession
    world: World
    bundle_id: str
    prompt_tokens: int = 2_048
    deadline_s: float = 60.0
    on_overload: Literal["fallback", "reject"] = "fallback"

    def read(self, ask: AskRequest) -> AskedTurn:
        """Check a request before anything is sent. Raises RequestError."""
        return read_turn(ask, self.world)

    async def answer(self, ask: AskRequest, turn: AskedTurn) -> AsyncGenerator[PipelineEvent]:
        """StateEvent, TokenEvents, Answer; the token texts add up to the answer's text.

        A fallback has no StateEvent of its own: its state comes with the Answer. Raises
        Overloaded or EngineStopped, before anything else, if the settings say so; every other
        failure ends in an authored line.
        """
        progress = Progress(turn)
        try:
            async with aclosing(self._run(ask, progress)) as events:
                async for event in events:
                    yield event
        except (Overloaded, EngineStopped) as error:
            if self.on_overload == "reject" and progress.decision is None:
                raise
            is_full = isinstance(error, Overloaded)
            progress.reason = Reason.OVERLOADED if is_full else Reason.ENGINE_ERROR
        except PromptTooLong as error:
            logger.warning("turn %s: %s", turn.turn_id, error)
            progress.reason = Reason.PROMPT_TOO_LONG
        except Exception:  # the game must go on: an authored line stands in for any fault
            logger.exception("turn %s: the main path failed", turn.turn_id)
            progress.reason = Reason.ENGINE_ERROR
        if rest := self._finish(progress):
            yield TokenEvent(rest)
        yield self._answer(progress)

    async def _run(self, ask: AskRequest, progress: Progress) -> AsyncGenerator[PipelineEvent]:
        turn = progress.turn
        prompt = build_prompt(turn, self.world, self.encoder, self.prompt_tokens)
        progress.num_dropped = prompt.num_dropped

        def on_state(vector: Vector) -> list[int]:
            decision = self._decide(vector, turn)
            tokens = self._decision_tokens(decision)
            progress.decision = decision  # from here on it stands
            return tokens

        request = Request(
            prompt.tokens,
            ask.gen_params.sampling(LINE_END),
            on_state,
            deadline=time.monotonic() + self.deadline_s,
        )
        async with aclosing(self.engine.stream(request)) as events:
            async for event in events:
                if isinstance(event, State):
                    yield _state_event(progress)
                elif isinstance(event, Token):
                    if text := progress.cleaner.push(event.text):
                        yield TokenEvent(text)
                elif isinstance(event, Done):
                    progress.done = event

    def _decide(self, vector: Vector, turn: AskedTurn) -> Decision:
        prediction = self.heads.predict(vector)
        spec = self.heads.spec
        return decide(prediction, spec, self.world, turn.facts, turn.lang)

    def _decision_tokens(self, decision: Decision) -> list[int]:
        tokens = self.encoder.encode(decision_segments(decision.words()))
        if len(tokens) <= MAX_DECISION_TOKENS:
            return tokens
        return self.encoder.encode(decision_segments(decision.words(with_values=False)))

    def _finish(self, progress: Progress) -> str:
        """What is left to say: the held-back end of the line, or an authored one for no line."""
        rest = progress.cleaner.finish()
        if progress.cleaner.text:
            return rest
        progress.reason = progress.reason or Reason.DEADLINE
        progress.line = authored_line(self.world, progress.turn)
        return progress.line.text

    def _answer(self, progress: Progress) -> Answer:
        turn, line = progress.turn, progress.line
        is_valid = progress.decision is not None
        decision = progress.decision or no_change(self.heads.spec)
        meta = AnswerMeta(
            npc_id=turn.persona.npc_id,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            valid=is_valid,
            path="main" if is_valid else "fallback",
            reason=None if is_valid else progress.reason,
            text_source="authored" if line else "model",
            history="rebuilt" if turn.history else "fresh",
            flags_detail=decision.details,
            usage=_usage(progress.done),
            timings_ms=_timings(progress.done),
            bundle=self.bundle_id,
            truncated=(line is None and progress.is_cut) or UNSET,
            dropped_turns=progress.num_dropped or UNSET,
            npc_action=(line.npc_action if line else "") or UNSET,
            npc_emotion=(line.npc_emotion if line else "") or UNSET,
        )
        text = line.text if line else progress.cleaner.text
        return Answer(text, decision.delta, decision.flags, meta)


def _state_event(progress: Progress) -> StateEvent:
    decision = progress.decision
    assert decision is not None, "the engine reports a state after on_state has decided"
    return StateEvent(progress.turn.turn_id, decision.delta, decision.flags, decision.details)


def _usage(done: Done | None) -> UsageMeta:
    return UsageMeta(**asdict(done.usage)) if done else UsageMeta()


def _timings(done: Done | None) -> TimingsMeta:
    spans = asdict(done.timings) if done else {}
    return TimingsMeta(**{n: round(ms, 2) for n, ms in spans.items() if ms is not None})
