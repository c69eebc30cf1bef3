"""The engine: one thread owns llama.cpp; requests come in from any thread, events go out.

One step: schedule, evaluate, deliver.
"""

import logging
import queue
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from types import TracebackType
from typing import Self

from runtime.errors import DecodeError, EngineStopped
from runtime.kv_cache import KvCache, Offload
from runtime.llama_backend import Chunk, LlamaContext, Sampler
from runtime.pace import Pace
from runtime.plan import Limits, Plan
from runtime.relay import EventRelay
from runtime.scheduler import Scheduler
from runtime.sequence import (
    MAX_DECISION_TOKENS,
    Done,
    EngineSequence,
    Event,
    Failed,
    FinishReason,
    Request,
    State,
    Token,
)
from runtime.stats import EngineStats, stats_of
from runtime.step_budget import StepBudget

logger = logging.getLogger(__name__)


class Engine:
    """Runs requests on a context, several at a time.

    `start` and `close` it, or use it as a context manager. `submit`, `cancel`, `run` and `stream`
    may be called from any thread; everything else happens on the engine's own. `max_residents` of
    the context's sequences are kept for what finished requests leave: a prompt that begins like one
    of them is evaluated from where they part. `offload` keeps more of what was evaluated, outside
    the cache; its prefixes take one sequence more. `budget` decides how much of a prompt rides with
    replies.
    """

    _unfit: Exception | None = None
    """Why the owner thread could not evaluate anything."""

    def __init__(
        self,
        context: LlamaContext,
        *,
        max_waiting: int = 64,
        max_residents: int = 0,
        offload: Offload | None = None,
        budget: StepBudget | None = None,
    ) -> None:
        self.pace = Pace()
        config = context.config
        offload = offload or Offload()
        num_sequences = config.n_seq_max - max_residents - (offload.prefixes is not None)
        assert num_sequences > 0, "some of the context's sequences must run"
        self._context = context
        self._model = context.model
        self._offload = offload
        self._cache = KvCache(context, offload)
        self._scheduler = Scheduler(
            Limits(
                sequences=num_sequences,
                cells=config.n_ctx,
                batch_tokens=config.n_batch,
                waiting=max_waiting,
                residents=max_residents,
            ),
            self._cache.is_stored,
            context.holds,
            offload.swap,
        )
        self._budget = budget or StepBudget()
        self._changed = threading.Condition()  # guards the scheduler
        self._is_stopping = False
        self._is_warm = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the owner thread, and wait until it has evaluated something once.

        Raises ModelError, the engine closed again, if llama.cpp can't.
        """
        assert self._thread is None, "one thread owns llama.cpp"
        self._thread = threading.Thread(target=self._loop, name="engine", daemon=True)
        self._thread.start()
        self._is_warm.wait()
        if self._unfit is not None:
            self.close()
            raise self._unfit

    def close(self) -> None:
        """Stop the owner thread; unfinished requests fail with EngineStopped."""
        with self._changed:
            self._is_stopping = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._fail_all(_stopped())  # those that came when there was no thread yet

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the owner thread is alive."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def stats(self) -> EngineStats:
        """Counts at this moment."""
        with self._changed:
            return stats_of(self._scheduler, self._offload.prefixes, self._offload.swap)

    def submit(self, request: Request, emit: Callable[[Event], None]) -> EngineSequence:
        """Queue a request. `emit` gets its events, Done or Failed last and in any case.

        It is called on the engine's thread; by `close`, if that never ran.

        Raises ValueError for an empty prompt, a prefix that is not a part of it, or a token that
        the vocabulary does not have, PromptTooLong, EngineStopped, and Overloaded where too many
        wait, or so many that it would not be finished by its deadline.
        """
        if not request.prompt:
            raise ValueError("the prompt is empty; it needs at least one token")
        if request.prefixes and not 0 < max(request.prefixes) < len(request.prompt):
            raise ValueError(
                f"prefixes of {list(request.prefixes)} tokens; the prompt has "
                f"{len(request.prompt)}, and one at least must follow a prefix"
            )
        self._check_tokens(request.prompt)
        sequence = EngineSequence(request, emit)
        with self._changed:
            if self._is_stopping:
                raise EngineStopped("the engine has been stopped")
            scheduler = self._scheduler
            scheduler.check_fits(sequence)
            self.pace.check_deadline(
                sequence, scheduler.num_ahead, scheduler.num_places, time.monotonic()
            )
            scheduler.add(sequence)
            self._changed.notify()
        return sequence

    def cancel(self, sequence: EngineSequence) -> None:
        """End a request within one step: it gets Done as `cancelled`, unless it is over already."""
        sequence.is_cancelled = True
        with self._changed:
            self._changed.notify()

    def run(self, request: Request) -> Generator[Event]:
        """The request's events, for callers that may block. Closing the generator cancels it.

        Submits at the first `next`. Raises what `submit` raises, and the error of a request that
        failed.
        """
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        sequence = self.submit(request, events.put)
        try:
            while True:
                event = events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Done):
                    return
        finally:
            self.cancel(sequence)

    async def stream(
        self, request: Request, is_enough: Callable[[], bool] = lambda: False
    ) -> AsyncGenerator[Event]:
        """The request's events, for asyncio. Closing the generator cancels it; raises as `run`.

        To leave it early, use `contextlib.aclosing`: `break` alone closes it some time later. Once
        `is_enough` it is cancelled, too, and its Done comes all the same, within a step.
        """
        events = EventRelay()
        sequence = self.submit(request, events.put)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Failed):
                    raise event.error
                yield event
                if isinstance(event, Done):
                    return
                if is_enough():
                    self.cancel(sequence)
        finally:
            self.cancel(sequence)

    def step(self) -> bool:
        """Evaluate one batch and deliver what came of it; whether there was anything to do.

        Called by the owner thread, or by a test instead of it.
        """
        plan = self._schedule()
        if not plan.slices:
            return False
        start = time.monotonic()
        try:
            rows = self._evaluate(plan)
        except DecodeError as error:
            logger.exception("a batch of %d sequences failed", len(plan.slices))
            for part in plan.slices:
                self._fail(part.sequence, error)
            return True
        seconds = time.monotonic() - start
        self._budget.observe(plan.num_replies, plan.num_prompt, plan.num_prompts, seconds)
        for part, row in zip(plan.slices, rows, strict=True):
            part.sequence.num_evaluated += part.count
            self._cache.keep_prefixes(part.sequence, part.count)
            self._deliver(part.sequence, row if part.is_output else None)
        return True

    def _loop(self) -> None:
        try:
            # on this thread: OpenMP is slower once a second one of the process works with it
            self._context.warm_up()
        except Exception as error:  # `start` raises it
            self._unfit = error
            return
        finally:
            self._is_warm.set()
        try:
            self._work()
        finally:  # whatever ends the thread, nobody waits for it
            with self._changed:
                self._is_stopping = True
            self._fail_all(_stopped())

    def _work(self) -> None:
        """Step whenever there is something to do, until the engine is closed."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._scheduler.has_work or self._is_stopping)
                if self._is_stopping:
                    return
            try:
                self.step()
            except Exception as error:  # a defect must not leave callers waiting for ever
                logger.exception("the engine failed")
                self._fail_all(error)

    def _schedule(self) -> Plan:
        now = time.monotonic()
        for sequence in self._open_sequences():
            if sequence.is_cancelled:
                self._finish(sequence, FinishReason.CANCELLED)
            elif sequence.is_late(now) or (
                self._scheduler.is_full and self.pace.is_hopeless(sequence, now)
            ):
                self._finish(sequence, FinishReason.DEADLINE)
        admissions = self._scheduler.admit()
        while True:
            with self._changed:
                admission = next(admissions, None)
            if admission is None:
                break
            sequence = admission.sequence
            sequence.watch.mark("queue")
            self._cache.arrange(admission.steps, sequence)
            if sequence.sampler is None:
                sequence.sampler = Sampler(sequence.request.sampling, self._model.n_vocab)
        with self._changed:
            budget = self._budget
            plan = self._scheduler.plan(budget.num_tokens, budget.num_alone, budget.num_decided)
        self._cache.arrange(plan.steps)
        return plan

    def _evaluate(self, plan: Plan) -> list[int]:
        chunks = []
        for part in plan.slices:
            sequence, start = part.sequence, part.sequence.num_evaluated
            assert sequence.seq_id is not None, "only admitted sequences are planned"
            tokens = sequence.tokens[start : start + part.count]
            chunks.append(Chunk(sequence.seq_id, start, tokens, part.is_output))
        return self._context.decode(chunks, embeddings=plan.embeddings)

    def _deliver(self, sequence: EngineSequence, row: int | None) -> None:
        if sequence.is_state_due:
            if sequence.num_pending == 0:
                assert row is not None, "<STATE> is an output"
                self._decide(sequence, row)
            elif sequence.num_pending == 1:
                sequence.watch.mark("prefill")
        elif row is not None:
            sequence.watch.mark("prefill")
            self._reply(sequence, row)

    def _decide(self, sequence: EngineSequence, row: int) -> None:
        vector = self._context.embedding(row)
        sequence.watch.mark("prefill")  # if nothing came before `<STATE>`
        sequence.watch.mark("state")
        assert sequence.request.on_state is not None
        try:
            decision = sequence.request.on_state(vector)
            if not 0 < len(decision) <= MAX_DECISION_TOKENS:
                raise ValueError(
                    f"on_state gave {len(decision)} tokens; it must give 1 to {MAX_DECISION_TOKENS}"
                )
            self._check_tokens(decision)
        except Exception as error:  # the caller's code: its error is the caller's
            self._fail(sequence, error)
            return
        sequence.decide(decision)
        self._emit(sequence, State(vector))

    def _reply(self, sequence: EngineSequence, row: int) -> None:
        assert sequence.sampler is not None, "admitted sequences have a sampler"
        token = sequence.sampler.sample(self._context, row)
        sequence.watch.mark("first_token")
        if self._model.is_end(token) or self._model.is_control(token):
            self._finish(sequence, FinishReason.STOP)
            return
        sequence.tokens.append(token)
        if piece := sequence.text.push(self._model.piece(token)):
            try:
                text = sequence.take_due(piece)
            except Exception as error:  # the caller's code: its error is the caller's
                self._fail(sequence, error)
                return
            if text:
                self._emit(sequence, Token(text))
        if sequence.text.is_stopped:
            self._finish(sequence, FinishReason.STOP)
        elif sequence.num_sampled >= sequence.request.sampling.max_tokens:
            self._finish(sequence, FinishReason.LENGTH)

    def _finish(self, sequence: EngineSequence, reason: FinishReason) -> None:
        sequence.watch.mark("total")
        if reason is not FinishReason.CANCELLED:
            self.pace.observe(sequence, is_cut=reason is FinishReason.DEADLINE)
        self._release(sequence, is_kept=True)
        if text := sequence.take_untold() + sequence.text.finish():
            self._emit(sequence, Token(text))
        reply, usage, timings = tuple(sequence.reply), sequence.usage(), sequence.watch.timings()
        self._emit(sequence, Done(reason, reply, usage, timings))

    def _fail(self, sequence: EngineSequence, error: Exception) -> None:
        self._release(sequence)
        self._emit(sequence, Failed(error))

    def _fail_all(self, error: Exception) -> None:
        for sequence in self._open_sequences():
            self._fail(sequence, error)

    def _open_sequences(self) -> list[EngineSequence]:
        with self._changed:
            return [*self._scheduler.running, *self._scheduler.waiting]

    def _release(self, sequence: EngineSequence, *, is_kept: bool = False) -> None:
        try:
            with self._changed:
                steps = self._scheduler.remove(sequence, is_kept=is_kept)
            if sequence.sampler is not None:
                sequence.sampler.close()
            self._cache.arrange(steps)
        except Exception:  # a defect, but whoever waits for the end is to be told of it
            logger.exception("what a request held could not be freed")

    def _emit(self, sequence: EngineSequence, event: Event) -> None:
        try:
            sequence.emit(event)
        except Exception:  # such as a closed event loop: nobody listens any more
            logger.warning("a request's listener is gone; cancelling it", exc_info=True)
            sequence.is_cancelled = True

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        # llama.cpp refuses the whole batch for one of them, and so fails other requests too
        for token in (min(tokens), max(tokens)):
            if not 0 <= token < self._model.n_vocab:
                raise ValueError(f"token {token}: the vocabulary has {self._model.n_vocab} tokens")


def _stopped() -> EngineStopped:
    return EngineStopped("the engine was stopped before the reply was finished")
