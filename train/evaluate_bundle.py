"""The steps of `persona evaluate bundle`: read a split by what serves, and report."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from export.machine import describe_machine
from export.reporter import Reporter
from rag.world import World, load_world
from runtime.llama_backend import LlamaModel
from runtime.prompt import LINE_END
from runtime.sampling import SamplingParams
from train.baselines import run_baselines
from train.dataset import (
    SPLITS,
    DatasetError,
    TurnLabel,
    check_npcs,
    conversations,
    read_dataset,
    spread,
)
from train.evaluation import evaluate
from train.few_shot import with_examples
from train.line_figures import GeneratedLine, line_figures
from train.perplexity import ReplyScore, perplexity
from train.recall import open_writer
from train.report_contents import Meta, Report
from train.samples import samples_of
from train.served import ServedBundle, open_bundle
from train.state_cache import kept_states
from train.states import Form, LabelledState, Reading, num_turns, read_states_of, readings
from train.transcripts import TranscriptWriter
from train.voice import Voice, voice


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to evaluate, on what."""

    bundle: Path
    world: Path
    data: Path
    split: str
    embedder: str
    untuned: Path | None
    """The base without training as a GGUF of the same vocabulary, for its perplexity."""
    num_examples: int
    """Beginnings of training conversations that it is shown first."""
    num_voice: int
    """Conversations whose responses are also scored in another's place; 0: none."""
    num_replies: int
    has_decisions: bool
    """Whether the decision's words stand before a line that is generated, as they do in serving."""
    seed: int
    num_threads: int
    kept: Path | None = None
    """A folder for what the split was read as, so that another look at it is quick."""


def evaluate_bundle(options: EvaluateOptions, reporter: Reporter) -> Report:
    """Every figure of a bundle on one split.

    Raises DatasetError, WorldError, BundleError, ModelError or EmbedderError.
    """
    world = load_world(options.world)
    needed = SPLITS if options.split == "test" else ("train", options.split)
    splits = read_dataset(options.data, needed)
    check_npcs(splits, world)
    labels = splits[options.split]
    with open_bundle(options.bundle, options.num_threads) as served:
        writer = open_writer(options.world, world, options.embedder, served.encoder)
        wanted = readings(conversations(labels).values(), writer)
        reader = _Reader(options, served, reporter)
        states = reader.read(wanted)
        continued = [reading for reading in wanted if reading.form is Form.CONTINUED]
        shown = with_examples(continued, splits["train"], writer, options.num_examples)
        untuned = reader.read_untuned(shown)
        voiced = _voice(options, served, labels, writer, reporter)
        lines = _replies(options, served, wanted, world, reporter)
        predictors = {
            f"heads, {form} transcript": evaluate(served.predict(chosen, world))
            for form in Form
            if (chosen := [state for state in states if state.form is form])
        }
        meta = _meta(options, served)
    baselines = []
    if options.split == "test":
        reporter.stage("fitting the baselines")
        baselines = run_baselines(splits, world)
    return Report(
        meta=meta,
        predictors=predictors,
        baselines=baselines,
        perplexity=perplexity(_scores(states, untuned)),
        voice=voiced,
        lines=line_figures(lines) if lines else None,
        samples=samples_of(lines, options.seed),
    )


def _progress(reporter: Reporter, name: str, wanted: Sequence[Reading]) -> Callable[[int], None]:
    return reporter.stage(name, num_turns(wanted))


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads a split, or remembers what was read of it before."""

    options: EvaluateOptions
    served: ServedBundle
    reporter: Reporter

    def read(self, wanted: Sequence[Reading]) -> list[LabelledState]:
        """`wanted` as the bundle reads them."""

        def read() -> list[LabelledState]:
            done = _progress(self.reporter, "reading the split", wanted)
            return self.served.read(wanted, done)

        return self._kept("served", self.served.bundle.model, wanted, read)

    def read_untuned(self, wanted: Sequence[Reading]) -> list[LabelledState] | None:
        """`wanted` as the base reads them; None if nobody asks."""
        path = self.options.untuned
        if path is None:
            return None
        with closing(LlamaModel(path, vocab_only=True)) as base:
            if base.n_vocab != self.served.model.n_vocab:
                found = f"{base.n_vocab} tokens, the bundle's {self.served.model.n_vocab}"
                raise DatasetError(f"{path}: another vocabulary: {found}")

        def read() -> list[LabelledState]:
            done = _progress(self.reporter, "reading the split by the untuned base", wanted)
            return read_states_of(path, wanted, self.served.conditions, done)

        return self._kept(f"untuned-{self.options.num_examples}", path, wanted, read)

    def _kept(
        self,
        name: str,
        model: Path,
        wanted: Sequence[Reading],
        read: Callable[[], list[LabelledState]],
    ) -> list[LabelledState]:
        folder = self.options.kept
        path = folder and folder / f"{name}.{self.options.split}.npz"
        return kept_states(path, [model], wanted, self.served.conditions, read)


def _scores(
    states: Sequence[LabelledState], untuned: Sequence[LabelledState] | None
) -> list[ReplyScore]:
    """Of every turn once, in the continued transcript."""
    continued = [state for state in states if state.form is Form.CONTINUED]
    before: Sequence[LabelledState | None] = untuned or [None] * len(continued)
    return [
        ReplyScore(state.label, state.num_answered, state.nll or 0.0, base.nll if base else None)
        for state, base in zip(continued, before, strict=True)
    ]


def _voice(
    options: EvaluateOptions,
    served: ServedBundle,
    labels: Sequence[TurnLabel],
    writer: TranscriptWriter,
    reporter: Reporter,
) -> Voice | None:
    if not options.num_voice:
        return None
    chosen = spread(list(conversations(labels).values()), options.num_voice)

    def read(wanted: Sequence[Reading]) -> list[LabelledState]:
        return served.read(wanted, _progress(reporter, "reading in another's place", wanted))

    def decide(state: LabelledState, label: TurnLabel) -> str:
        return served.words(state.vector, label, writer.world)

    return voice(chosen, writer, read, decide)


def _replies(
    options: EvaluateOptions,
    served: ServedBundle,
    wanted: Sequence[Reading],
    world: World,
    reporter: Reporter,
) -> list[GeneratedLine]:
    """Lines to turns spread over the split, at the temperature that serves by default."""
    places = [
        (reading, turn)
        for reading in wanted
        if reading.form is Form.CONTINUED
        for turn in range(len(reading.transcript.turns))
    ]
    if not options.num_replies:
        return []
    chosen = spread(places, options.num_replies)
    done = reporter.stage("generating replies", len(chosen))
    lines = []
    with served.engine() as engine:
        for number, (reading, turn) in enumerate(chosen):
            sampling = SamplingParams(seed=options.seed + number, stop=(LINE_END,))
            decider = world if options.has_decisions else None
            lines.append(served.reply(engine, reading, turn, sampling, decider))
            done(1)
    return lines


def _meta(options: EvaluateOptions, served: ServedBundle) -> Meta:
    manifest = served.bundle.manifest
    machine = describe_machine()
    return Meta(
        title=f"{manifest.name} on {options.split}",
        bundle=served.bundle.id,
        model=f"{manifest.base.name}, {manifest.quantisation}",
        split=options.split,
        machine=f"{machine['cpu']}, {machine['num_cores']} cores, {machine['system']}",
        date=datetime.now(UTC).date().isoformat(),
    )
