"""A bundle as it serves, opened to be evaluated: states, decisions and replies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np

from heads.agreement import MAX_ATTEMPTS, Agreement, open_agreement
from heads.bundle import Bundle, load_bundle
from heads.loading import check_format, open_encoder
from heads.session import HeadsSession
from rag.deltas import bounded
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.llama_backend import LlamaContext, LlamaModel, Vector
from runtime.prompt import decision_segments
from runtime.sampling import SamplingParams
from runtime.sequence import Done, Request, Token
from runtime.step_budget import WholeBatches
from train.dataset import TurnLabel
from train.fit_agreement import split_sentences
from train.fit_heads import Array
from train.line_figures import GeneratedLine
from train.predicted import Predicted, needed_scores
from train.states import NUM_CELLS, Conditions, LabelledState, Reading, read_states, stack
from train.transcripts import remark_of, words_of

_NUM_RESIDENTS = 2


@dataclass(frozen=True, slots=True)
class ServedBundle:
    """A bundle's model and heads under the context settings that its manifest records."""

    bundle: Bundle
    model: LlamaModel
    heads: HeadsSession
    agreement: Agreement | None
    encoder: PromptEncoder
    num_threads: int

    @property
    def conditions(self) -> Conditions:
        """The context settings of the manifest."""
        return Conditions(self.bundle.manifest.context, self.num_threads)

    def read(
        self, wanted: Sequence[Reading], on_progress: Callable[[int], None]
    ) -> list[LabelledState]:
        """States and replies' NLL."""
        return read_states(self.model, wanted, self.conditions, on_progress)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """An engine for one reply at a time, which remembers the last prompts.

        What it evaluates together does not depend on the machine's pace, so that the same seeds
        draw the same lines on the same kernels.
        """
        settings = self.bundle.manifest.context
        num_sequences = 1 + _NUM_RESIDENTS
        config = settings.config(
            n_ctx=NUM_CELLS, n_seq_max=num_sequences, n_threads=self.num_threads
        )
        context = LlamaContext(self.model, config)
        try:
            budget = WholeBatches()
            with Engine(context, max_residents=_NUM_RESIDENTS, budget=budget) as engine:
                yield engine
        finally:
            context.close()

    def predict(self, states: Sequence[LabelledState], world: World) -> Predicted:
        """What the heads say of `states`, deltas bounded as the world has it, and its rules."""
        turns = [state.label for state in states]
        clues = [self.heads.find(remark_of(label, world)) for label in turns]
        delta, scores = self.heads.predict_batch(stack(states), clues)
        flags, thresholds = self._flags
        names = [head.name for head in self.heads.spec.delta]
        moves = [dict(zip(names, row, strict=True)) for row in delta.tolist()]
        moved = [self._bounded(m, label, world) for m, label in zip(moves, turns, strict=True)]
        return Predicted(
            turns=turns,
            delta_names=tuple(names),
            flag_names=flags,
            delta=np.array([[*each.values()] for each in moved]),
            scores=scores.astype(np.float64),
            thresholds=thresholds,
            needed=needed_scores(turns, flags, thresholds, world),
        )

    def reply(
        self,
        engine: Engine,
        reading: Reading,
        turn: int,
        sampling: SamplingParams,
        world: World | None,
    ) -> GeneratedLine:
        """The line to a turn of a transcript, after the decision of the heads, as it is served.

        Without a `world` it has to do without the decision's words, and need not agree with it.
        """
        transcript = reading.transcript
        label = transcript.turns[turn].label
        prompt = [*transcript.opening, *transcript.told]
        for past in transcript.turns[:turn]:
            prompt += [*past.asked, *past.decided, *past.answered]
        prompt += transcript.turns[turn].asked

        words, decided, is_raised = "", list[int](), False

        def on_state(vector: Vector) -> list[int]:
            nonlocal words, decided, is_raised
            if world is not None:
                raised, words = self._decide(vector, label, world)
                is_raised = bool(raised)
            decided = self.encoder.encode(decision_segments(words))
            return decided

        request = Request(prompt, sampling, on_state)
        for attempt in range(1, MAX_ATTEMPTS + 1):
            text, reason = said, _ = _spoken(engine, request)
            if world is not None and attempt < MAX_ATTEMPTS:
                text = self._agreeing(said, is_raised=is_raised)
            if text or not said:
                break
            request = request.again(decided)
        return GeneratedLine(label, text, reason, words, attempt)

    def _agreeing(self, text: str, *, is_raised: bool) -> str:
        """A line up to the sentence with which it seems to contradict the decision."""
        agreed = ""
        for said in accumulate(split_sentences(text)):
            if self.agreement and self.agreement.contradiction(said, is_raised=is_raised):
                return agreed
            agreed = said
        return text

    def words(self, vector: Vector, label: TurnLabel, world: World) -> str:
        """The decision at a `<STATE>` [n_embd], in the words that serving writes after it."""
        return self._decide(vector, label, world)[1]

    def _decide(self, vector: Vector, label: TurnLabel, world: World) -> tuple[list[str], str]:
        """The flags that are raised, and the decision in words."""
        found = self.heads.predict(vector, self.heads.find(remark_of(label, world)))
        names, thresholds = self._flags
        needed = needed_scores([label], names, thresholds, world)[0].tolist()
        least = dict(zip(names, needed, strict=True))
        raised = [name for name in names if found.flag_scores[name] >= least[name]]
        delta = self._bounded(found.delta, label, world)
        return raised, words_of(label, world, delta, raised)

    @property
    def _flags(self) -> tuple[tuple[str, ...], Array]:
        """Names and thresholds [n_flags]."""
        flags = self.heads.spec.flags
        return tuple(flag.name for flag in flags), np.array([flag.threshold for flag in flags])

    def _bounded(
        self, delta: Mapping[str, float], label: TurnLabel, world: World
    ) -> dict[str, float]:
        """A turn's deltas inside the heads' ranges and the world's policies."""
        trigger = world.trigger_def(label.facts.scene)
        policies = trigger.delta_policy if trigger else {}
        return {
            head.name: bounded(delta[head.name], head, policies.get(head.name))
            for head in self.heads.spec.delta
        }


@contextmanager
def open_bundle(folder: Path, num_threads: int) -> Iterator[ServedBundle]:
    """The bundle in `folder`. Raises BundleError or ModelError."""
    bundle = load_bundle(folder)
    check_format(bundle)
    manifest = bundle.manifest
    heads = HeadsSession(bundle.heads, manifest.heads, manifest.n_embd)
    agreement = open_agreement(bundle)
    model = LlamaModel(bundle.model)
    try:
        encoder = open_encoder(bundle, model)
        yield ServedBundle(bundle, model, heads, agreement, encoder, num_threads)
    finally:
        model.close()


def _spoken(engine: Engine, request: Request) -> tuple[str, str]:
    """The text of a reply, and why it ended."""
    text, reason = "", ""
    for event in engine.run(request):
        if isinstance(event, Token):
            text += event.text
        elif isinstance(event, Done):
            reason = event.finish_reason
    return text, reason
