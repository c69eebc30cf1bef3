"""The dialogue pipeline: read the turn, mind the gate, prompt, run the engine, decide, clean."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Literal, TypeAlias

from msgspec import UNSET

from heads.session import HeadsSession
from rag.prompting import npc_for_prompt
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.errors import EngineStopped, Overloaded, PromptTooLong
from runtime.prompt import decision_segments, fallback_prompt
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    FinishReason,
    OnState,
    Request,
    State,
    Token,
    Vector,
)
from server.decide import Decision, decide, no_change
from server.fallback import AuthoredLines, Bearing, Reason, bearing, situation
from server.gate import Closed, check_gate
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
    closed: Closed | None
    cleaner: ReplyCleaner = field(default_factory=ReplyCleaner)
    decision: Decision | None = None
    is_state_sent: bool = False
    done: Done | None = None
    fault: Reason | None = None
    num_dropped: int = 0
    line: str | None = None

    @property
    def reason(self) -> Reason | None:
        """Why this is a fallback; None on the main path."""
        if self.closed:
            return self.closed.reason
        return self.fault if self.decision is None else None

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
    fallback: Literal["model", "authored"] = "model"
    lines: AuthoredLines = field(default_factory=AuthoredLines)

    def read(self, ask: AskRequest) -> AskedTurn:
        """Check a request before anything is sent. Raises RequestError."""
        return read_turn(ask, self.world)

    async def answer(self, ask: AskRequest, turn: AskedTurn) -> AsyncGenerator[PipelineEvent]:
        """One StateEvent, TokenEvents, the Answer; the token texts add up to the answer's text.

        Raises Overloaded or EngineStopped, before anything else, if the settings say so; every
        other failure ends in an authored line.
        """
        progress = Progress(turn, check_gate(turn, ask.precheck_passed, self.world))
        try:
            async with aclosing(self._run(ask, progress)) as events:
                async for event in events:
                    yield event
        except (Overloaded, EngineStopped) as error:
            if self.on_overload == "reject" and progress.decision is None:
                raise
            is_full = isinstance(error, Overloaded)
            progress.fault = Reason.OVERLOADED if is_full else Reason.ENGINE_ERROR
        except PromptTooLong as error:
            logger.warning("turn %s: %s", turn.turn_id, error)
            progress.fault = Reason.PROMPT_TOO_LONG
        except Exception:  # the game must go on: an authored line stands in for any fault
            logger.exception("turn %s: the model failed", turn.turn_id)
            progress.fault = Reason.ENGINE_ERROR
        rest = self._finish(progress)
        if not progress.is_state_sent:
            yield self._state_event(progress)
        if rest:
            yield TokenEvent(rest)
        yield self._answer(progress)

    async def _run(self, ask: AskRequest, progress: Progress) -> AsyncGenerator[PipelineEvent]:
        if progress.closed:
            progress.decision = progress.closed.decision(self.heads.spec)
            yield self._state_event(progress)
            if self.fallback == "authored":
                return
            request = self._fallback_request(ask, progress)
        else:
            request = self._main_request(ask, progress)
        async with aclosing(self.engine.stream(request)) as events:
            async for event in events:
                if isinstance(event, State):
                    yield self._state_event(progress)
                elif isinstance(event, Token):
                    if text := progress.cleaner.push(event.text):
                        yield TokenEvent(text)
                elif isinstance(event, Done):
                    progress.done = event

    def _main_request(self, ask: AskRequest, progress: Progress) -> Request:
        turn = progress.turn
        prompt = build_prompt(turn, self.world, self.encoder, self.prompt_tokens)
        progress.num_dropped = prompt.num_dropped

        def on_state(vector: Vector) -> list[int]:
            decision = self._decide(vector, turn)
            tokens = self._decision_tokens(decision)
            progress.decision = decision  # from here on it stands
            return tokens

        return self._request(ask, prompt.tokens, on_state)

    def _fallback_request(self, ask: AskRequest, progress: Progress) -> Request:
        """The fallback prompt: nothing is decided by it, so it has no `<STATE>`."""
        turn, closed = progress.turn, progress.closed
        npc = npc_for_prompt(turn.persona, turn.lang)
        meta = closed.meta if closed else None
        moment = situation(self.world.fallback(turn.scene), meta, turn.lang)
        tokens = self.encoder.begin(fallback_prompt(npc, moment, turn.utterance))
        if len(tokens) > self.prompt_tokens:
            raise PromptTooLong(
                f"the fallback prompt takes {len(tokens)} tokens, the budget is "
                f"{self.prompt_tokens}; raise PERSONA_PROMPT_TOKENS or shorten the text"
            )
        return self._request(ask, tokens, None)

    def _request(self, ask: AskRequest, tokens: list[int], on_state: OnState | None) -> Request:
        deadline = time.monotonic() + self.deadline_s
        return Request(tokens, ask.gen_params.sampling(LINE_END), on_state, deadline=deadline)

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
        progress.fault = progress.fault or Reason.DEADLINE
        document = self.world.fallback(progress.turn.scene)
        progress.line = self.lines.choose(document, progress.turn)
        return progress.line

    def _state_event(self, progress: Progress) -> StateEvent:
        progress.is_state_sent = True
        decision = progress.decision or no_change(self.heads.spec)
        turn_id = progress.turn.turn_id
        return StateEvent(turn_id, decision.delta, decision.flags, decision.details)

    def _answer(self, progress: Progress) -> Answer:
        turn, closed, is_authored = progress.turn, progress.closed, progress.line is not None
        decision = progress.decision or no_change(self.heads.spec)
        shown = Bearing()
        if progress.reason or is_authored:
            document, meta = self.world.fallback(turn.scene), closed.meta if closed else None
            shown = bearing(document, meta, turn.lang)
        answer_meta = AnswerMeta(
            npc_id=turn.persona.npc_id,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            valid=progress.reason is None,
            path="fallback" if progress.reason else "main",
            reason=progress.reason,
            text_source="authored" if is_authored else "model",
            history="rebuilt" if turn.history else "fresh",
            flags_detail=decision.details,
            usage=_usage(progress.done),
            timings_ms=_timings(progress.done),
            bundle=self.bundle_id,
            truncated=(not is_authored and progress.is_cut) or UNSET,
            dropped_turns=progress.num_dropped or UNSET,
            trigger=(closed.trigger if closed else None) or UNSET,
            unmet=(closed.unmet if closed else []) or UNSET,
            npc_action=shown.npc_action or UNSET,
            npc_emotion=shown.npc_emotion or UNSET,
        )
        text = progress.line if progress.line is not None else progress.cleaner.text
        return Answer(text, decision.delta, decision.flags, answer_meta)


def _usage(done: Done | None) -> UsageMeta:
    return UsageMeta(**asdict(done.usage)) if done else UsageMeta()


def _timings(done: Done | None) -> TimingsMeta:
    spans = asdict(done.timings) if done else {}
    return TimingsMeta(**{n: round(ms, 2) for n, ms in spans.items() if ms is not None})
