"""The dialogue pipeline: read the turn, mind the gate, prompt, run the engine, decide, check."""

import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, TypeAlias

from msgspec import UNSET

from heads.agreement import MAX_ATTEMPTS, Agreement
from heads.session import HeadsSession, Prediction
from rag.flags import flag_rule
from rag.retriever import NOTE_TOKENS, Retriever, fitting_notes, note_text
from rag.triggers import TriggerMatcher
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.errors import EngineStopped, Overloaded, PromptTooLong
from runtime.prompt import LINE_END, Segment, decision_segments, fallback_prompt
from runtime.sentences import SentenceWatch
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    OnState,
    Request,
    State,
    Token,
    Vector,
)
from server.attempts import timings_of, usage_of
from server.decide import Decision, decide, no_change
from server.encoder_threads import EncoderThreads
from server.explain import explain
from server.fallback import AuthoredLines, Bearing, Reason, bearing, situation
from server.gate import check_gate
from server.line_check import LineCheck
from server.progress import Progress
from server.remembering import recall_history, remember
from server.schemas import (
    Answer,
    AnswerMeta,
    AskRequest,
    StateEvent,
    TokenEvent,
)
from server.sessions import SessionBusy, Sessions
from server.turn import AskedTurn, read_turn
from server.turn_prompt import BuiltPrompt, append_turn, build_prompt

logger = logging.getLogger(__name__)

PipelineEvent: TypeAlias = StateEvent | TokenEvent | Answer

OVERLAP = 64
"""Characters of what was said that a sentence is checked with: words may span the two."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """Answers turns with one bundle and one world.

    Without a `retriever` nothing is compared by meaning: no notes, no triggers but by words.
    """

    engine: Engine
    encoder: PromptEncoder
    heads: HeadsSession
    world: World
    bundle_id: str
    retriever: Retriever | None = None
    agreement: Agreement | None = None
    prompt_tokens: int = 2_048
    note_tokens: int = NOTE_TOKENS
    deadline_s: float = 60.0
    on_overload: Literal["fallback", "reject"] = "fallback"
    fallback: Literal["model", "authored"] = "model"
    lines: AuthoredLines = field(default_factory=AuthoredLines)
    sessions: Sessions = field(default_factory=Sessions)
    threads: EncoderThreads = field(default_factory=EncoderThreads)
    triggers: TriggerMatcher = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "triggers", TriggerMatcher(self.world, self.retriever))

    def read(self, ask: AskRequest, notices: Sequence[str] = ()) -> AskedTurn:
        """Check a request before anything is sent. Raises RequestError.

        `notices` say what of its body has no effect.
        """
        return read_turn(ask, self.world, notices)

    async def answer(
        self, ask: AskRequest, turn: AskedTurn, *, owner: str = "", is_streamed: bool = True
    ) -> AsyncGenerator[PipelineEvent]:
        """One StateEvent, TokenEvents, the Answer; the token texts add up to the answer's text.

        Sessions belong to `owner`, the id of an API key. A turn that is broken off is remembered
        if its state went out; not streamed, nothing did.

        Raises Overloaded or EngineStopped, before anything else, if the settings say so; every
        other failure ends in an authored line.
        """
        key = turn.session_id, turn.persona.npc_id, owner
        patience_s = self.deadline_s
        if ask.deadline_ms is not None:
            patience_s = min(patience_s, ask.deadline_ms / 1e3)
        deadline = time.monotonic() + patience_s
        try:
            async with self.sessions.turn(key, patience_s) as conversation:
                turn, history = recall_history(ask, turn, conversation)
                progress = Progress(
                    turn, owner, conversation, history, ask.precheck_passed, deadline
                )
                is_over = False
                try:
                    async with aclosing(self._answer_turn(ask, progress)) as events:
                        async for event in events:
                            is_over = isinstance(event, Answer)
                            yield event
                finally:
                    if is_over or is_streamed:
                        remember(progress, self.world, self.encoder)
        except SessionBusy:
            if self.on_overload == "reject":
                raise
            for event in self._conclude(ask, Progress(turn, owner, fault=Reason.OVERLOADED)):
                yield event
        except TimeoutError:
            for event in self._conclude(ask, Progress(turn, owner, fault=Reason.DEADLINE)):
                yield event

    async def _answer_turn(
        self, ask: AskRequest, progress: Progress
    ) -> AsyncGenerator[PipelineEvent]:
        turn = progress.turn
        try:
            await self._hear(ask, progress)
            async with aclosing(self._run(ask, progress)) as events:
                async for event in events:
                    yield event
        except (Overloaded, EngineStopped) as error:
            if self.on_overload == "reject" and progress.decision is None:
                raise
            is_full = isinstance(error, Overloaded)
            progress.fault = Reason.OVERLOADED if is_full else Reason.ENGINE_ERROR
        except TimeoutError:  # what the encoder should have told of the turn
            progress.fault = Reason.DEADLINE
        except PromptTooLong as error:
            logger.warning("turn %s: %s", turn.turn_id, error)
            progress.fault = Reason.PROMPT_TOO_LONG
        except Exception:  # the game must go on: an authored line stands in for any fault
            logger.exception("turn %s: the model failed", turn.turn_id)
            progress.fault = Reason.ENGINE_ERROR
        for event in self._conclude(ask, progress):
            yield event

    def _conclude(self, ask: AskRequest, progress: Progress) -> Iterator[PipelineEvent]:
        """What is still to be told: the state if need be, a line if there is none, the answer."""
        rest = self._finish(progress)
        if not progress.is_state_sent:
            yield self._state_event(progress)
        if rest:
            yield TokenEvent(rest)
        yield self._answer(ask, progress)

    async def _hear(self, ask: AskRequest, progress: Progress) -> None:
        """Mind the gate, and embed what was said wherever that is needed.

        Raises Overloaded, or TimeoutError at the deadline.
        """
        turn = progress.turn
        fired = self.triggers.by_keyword(turn.scene, turn.utterance)
        if self.retriever and (fired is None or ask.explain):
            hear = partial(self.retriever.embedder.hear, turn.utterance)
            # a keyword that fired stands, whatever an explanation would have told besides
            needless = (Overloaded, TimeoutError) if fired else ()
            with suppress(*needless):
                progress.heard = await self.threads.hear(hear, progress.deadline)
                progress.index = self.retriever.index
        fired = fired or self.triggers.by_meaning(turn.scene, turn.utterance, progress.heard)
        progress.closed = check_gate(turn, progress.precheck_passed, self.world, fired)

    async def _run(self, ask: AskRequest, progress: Progress) -> AsyncGenerator[PipelineEvent]:
        if progress.closed:
            progress.decision = progress.closed.decision(self.heads.spec)
            yield self._state_event(progress)
            if self.fallback == "authored":
                return
            request = self._fallback_request(ask, progress)
        else:
            request = self._main_request(ask, progress)
        check = LineCheck(
            self.triggers.banned(progress.turn.scene),
            self.world.validate(progress.turn.scene),
            self.retriever,
            None if progress.closed else self.agreement,
        )
        while True:
            async with aclosing(self._say(request, progress, check)) as events:
                async for event in events:
                    yield event
            is_over = progress.line.text or progress.num_attempts == MAX_ATTEMPTS
            if not progress.is_refused or is_over:
                return
            request = replace(request.again(progress.decision_tokens), is_due=SentenceWatch())

    async def _say(
        self, request: Request, progress: Progress, check: LineCheck
    ) -> AsyncGenerator[PipelineEvent]:
        """What comes of one request, sentence by sentence, up to one that must not leave."""
        progress.begin_attempt()
        line = progress.line
        events = self.engine.stream(request, is_enough=lambda: progress.is_stopped or line.is_full)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, State):
                    yield self._state_event(progress)
                elif isinstance(event, Token) and not progress.is_stopped:
                    for sentence in line.push(event.text):
                        if not await self._may_leave(sentence, progress, check):
                            break
                        line.release(sentence)
                        yield TokenEvent(sentence)
                elif isinstance(event, Done):
                    progress.done = event
        if progress.is_stopped:
            return
        last = line.finish(is_cut=progress.is_cut)
        if last and await self._may_leave(last, progress, check):
            line.release(last)
            yield TokenEvent(last)

    async def _may_leave(self, sentence: str, progress: Progress, check: LineCheck) -> bool:
        """Whether a sentence passes every check; if not, why is remembered."""
        refusal = check.by_words(f"{progress.line.text[-OVERLAP:]}{sentence}")
        if refusal is None and progress.num_attempts < MAX_ATTEMPTS and progress.decision:
            is_raised = any(progress.decision.flags.values())
            refusal = check.by_decision(f"{progress.line.text}{sentence}", is_raised=is_raised)
        if refusal is None and check.needs_meaning:
            by_meaning = partial(check.by_meaning, sentence)
            try:
                refusal = await self.threads.check(by_meaning, progress.deadline)
            except TimeoutError:
                progress.fault = Reason.DEADLINE
                return False
        progress.note_sentence(sentence, refusal)
        return refusal is None

    def _main_request(self, ask: AskRequest, progress: Progress) -> Request:
        progress.prompt = self._prompt(progress, self._recall(progress))
        clues = self.heads.find(progress.turn.remark)

        def on_state(vector: Vector) -> list[int]:
            prediction = self.heads.predict(vector, clues)
            decision = self._decide(prediction, progress)
            progress.prediction = prediction
            progress.decided, progress.decision_tokens = self._written_out(decision)
            progress.decision = decision  # from here on it stands
            return progress.decision_tokens

        return self._request(ask, progress, on_state)

    def _prompt(self, progress: Progress, notes: Sequence[str]) -> BuiltPrompt:
        """The turn appended to its conversation's transcript, or that written anew."""
        turn, conversation = progress.turn, progress.conversation
        written, past = conversation.written, conversation.turns
        if written and written.is_of(self.world, turn.npc):
            prompt = append_turn(written, turn, self.world, self.encoder, notes)
            if len(prompt.tokens) <= self.prompt_tokens:
                return prompt
            past = past[(len(past) + 1) // 2 :]
        turn = replace(turn, history=past)
        prompt = build_prompt(turn, self.world, self.encoder, self.prompt_tokens, notes)
        if conversation.turns:
            progress.history = "rebuilt"
        num_dropped = len(conversation.turns) - len(past) + prompt.num_dropped
        if num_dropped:
            conversation.forget_oldest(num_dropped)
        return replace(prompt, num_dropped=num_dropped + conversation.num_left_out)

    def _recall(self, progress: Progress) -> list[str]:
        """The notes that the utterance calls to mind, as far as the budget goes."""
        turn = progress.turn
        if self.retriever is None or progress.heard is None:
            return []
        vector = progress.heard.vector
        ranked = self.retriever.notes(turn.utterance, vector, turn.scene, turn.lang)
        progress.note_threshold = self.retriever.calibration.note
        progress.recalled = self.retriever.weighed(ranked, vector)
        near = [found.match for found in progress.recalled if found.is_near]
        progress.shown = fitting_notes(near, turn.lang, self.encoder, self.note_tokens)
        return [note_text(match.document, turn.lang) for match in progress.shown]

    def _fallback_request(self, ask: AskRequest, progress: Progress) -> Request:
        """The fallback prompt: nothing is decided by it, so it has no `<STATE>`."""
        turn, closed = progress.turn, progress.closed
        npc = turn.npc
        meta = closed.meta if closed else None
        moment = situation(self.world.fallback(turn.scene), meta, turn.lang)
        segments = fallback_prompt(npc, moment, turn.utterance)
        tokens = self.encoder.begin(segments)
        if len(tokens) > self.prompt_tokens:
            raise PromptTooLong(
                f"the fallback prompt takes {len(tokens)} tokens, the budget is "
                f"{self.prompt_tokens}; raise PERSONA_PROMPT_TOKENS or shorten the text"
            )
        progress.prompt = BuiltPrompt(tokens, 0, segments)
        return self._request(ask, progress, None)

    def _request(self, ask: AskRequest, progress: Progress, on_state: OnState | None) -> Request:
        prompt = progress.prompt
        assert prompt is not None, "it is built"
        return Request(
            prompt.tokens,
            ask.gen_params.sampling(LINE_END),
            on_state,
            deadline=progress.deadline,
            prefixes=prompt.prefixes,
            is_due=SentenceWatch(),
        )

    def _decide(self, prediction: Prediction, progress: Progress) -> Decision:
        turn, trigger = progress.turn, self.world.trigger_def(progress.turn.scene)
        policies = trigger.delta_policy if trigger else {}
        rule_of = partial(flag_rule, self.world, turn.facts, nearest=progress.nearest)
        return decide(prediction, self.heads.spec, policies, rule_of, turn.lang)

    def _written_out(self, decision: Decision) -> tuple[list[Segment], list[int]]:
        """What follows `<STATE>`; without the flags' values if it would be too long with them."""
        segments = decision_segments(decision.words())
        tokens = self.encoder.encode(segments)
        if len(tokens) > MAX_DECISION_TOKENS:
            segments = decision_segments(decision.words(with_values=False))
            tokens = self.encoder.encode(segments)
        return segments, tokens

    def _finish(self, progress: Progress) -> str:
        """An authored line, if nothing else was said."""
        if progress.line.text:
            return ""
        if not progress.is_refused:
            progress.fault = progress.fault or Reason.DEADLINE
        document = self.world.fallback(progress.turn.scene)
        progress.authored = self.lines.choose(document, progress.turn, progress.owner)
        return progress.authored

    def _state_event(self, progress: Progress) -> StateEvent:
        progress.is_state_sent = True
        decision = progress.decision or no_change(self.heads.spec)
        turn_id = progress.turn.turn_id
        return StateEvent(turn_id, decision.delta, decision.flags, decision.details)

    def _answer(self, ask: AskRequest, progress: Progress) -> Answer:
        turn, closed, is_authored = progress.turn, progress.closed, progress.authored is not None
        decision = progress.decision or no_change(self.heads.spec)
        shown = Bearing()
        if progress.reason or is_authored:
            document, meta = self.world.fallback(turn.scene), closed.meta if closed else None
            shown = bearing(document, meta, turn.lang)
        num_dropped = progress.prompt.num_dropped if progress.prompt else 0
        is_truncated = not is_authored and not progress.is_refused and progress.is_cut
        answer_meta = AnswerMeta(
            npc_id=turn.persona.npc_id,
            session_id=turn.session_id,
            turn_id=turn.turn_id,
            valid=progress.reason is None,
            path="fallback" if progress.reason else "main",
            reason=progress.reason,
            text_source=progress.text_source,
            history=progress.history,
            flags_detail=decision.details,
            usage=usage_of(progress.attempts),
            timings_ms=timings_of(progress.attempts),
            bundle=self.bundle_id,
            truncated=is_truncated or UNSET,
            dropped_turns=num_dropped or UNSET,
            trigger=(closed.trigger if closed else None) or UNSET,
            unmet=(closed.unmet if closed else []) or UNSET,
            npc_action=shown.npc_action or UNSET,
            npc_emotion=shown.npc_emotion or UNSET,
            line_refused=[refusal.reason for refusal in progress.refusals] or UNSET,
            notices=turn.notices or UNSET,
            explain=explain(progress, self.world, self.triggers, self.encoder)
            if ask.explain
            else UNSET,
        )
        return Answer(progress.text, decision.delta, decision.flags, answer_meta)
