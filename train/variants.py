"""The GGUF variants of a trained run: built, read on labelled turns, timed; and PyTorch beside.

RUN/export/NAME/            model.gguf, `model.json`
RUN/export/NAME.SPLIT.npz   what was read of it; read again only if something changed
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from export.build import build
from export.build_key import BuildOptions
from export.quantise import QuantType
from export.reporter import RichReporter
from export.speed import measure_speed, speed_config
from heads.bundle import MODEL, ContextSettings
from rag.world import World
from runtime.encoder import PromptEncoder
from runtime.llama_backend import LlamaContext, LlamaModel
from train.dataset import TurnLabel, conversations
from train.parity import Speed
from train.recall import open_writer
from train.run import vocabulary_only
from train.state_cache import kept_states
from train.states import Conditions, LabelledState, Reading, num_turns, read_states_of, readings
from train.trained import Trained, load_model, read_with_pytorch

NUM_SPEED_RUNS = 5
EXPORT = "export"
PYTORCH = "pytorch"


@dataclass(frozen=True, slots=True)
class Variant:
    """A GGUF made from a run, or from its base alone."""

    name: str
    quant: QuantType
    has_adapter: bool = True


@dataclass(frozen=True, slots=True)
class Turns:
    """Labelled turns to read, under a name for what is kept of them."""

    name: str
    readings: list[Reading]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Builds and reads the variants of one run."""

    trained: Trained
    world: World
    settings: ContextSettings
    num_threads: int
    reporter: RichReporter

    @property
    def folder(self) -> Path:
        """Where variants and readings are kept."""
        return self.trained.run / EXPORT

    @property
    def conditions(self) -> Conditions:
        """Under what GGUFs are read."""
        return Conditions(self.settings, self.num_threads)

    def options(self, variant: Variant) -> BuildOptions:
        """How a variant is built: of the base's GGUF, which is converted and trimmed already."""
        return BuildOptions(
            out=self.folder / variant.name,
            quant=variant.quant,
            adapter=self.trained.adapter if variant.has_adapter else None,
            base=self.trained.base.gguf,
            trim=False,
            model_only=True,
        )

    def build(self, variant: Variant) -> Path:
        """The variant's GGUF. Raises ExportError."""
        build(self.options(variant), self.reporter)
        return self.path(variant)

    def path(self, variant: Variant) -> Path:
        """Where a variant's GGUF is."""
        return self.folder / variant.name / MODEL

    def write(self, name: str, labels: Sequence[TurnLabel]) -> Turns:
        """The turns of `labels` in both forms, as the run's own examples are written."""
        data = self.trained.record.config.data
        with vocabulary_only(self.trained.base.gguf) as model:
            encoder = PromptEncoder(model, self.trained.base.special_ids)
            writer = open_writer(Path(data.world), self.world, data.note_embedder, encoder)
            return Turns(name, readings(conversations(labels).values(), writer))

    def read(self, variant: Variant, turns: Turns) -> list[LabelledState]:
        """States and NLL of `turns` by a variant, under the settings that will serve."""
        path = self.build(variant)

        def read() -> list[LabelledState]:
            done = self._stage(f"reading {turns.name} by {variant.name}", turns)
            return read_states_of(path, turns.readings, self.conditions, done)

        return self._kept(variant.name, turns, [path], read)

    def read_with_pytorch(self, turns: Turns) -> list[LabelledState]:
        """The same by the model as it was trained."""

        def read() -> list[LabelledState]:
            self.reporter.stage("loading the trained model")
            model = load_model(self.trained)
            done = self._stage(f"reading {turns.name} by PyTorch", turns)
            return read_with_pytorch(model, turns.readings, done)

        files = sorted(self.trained.adapter.iterdir())
        return self._kept(PYTORCH, turns, [self.trained.base.gguf, *files], read)

    def _stage(self, name: str, turns: Turns) -> Callable[[int], None]:
        return self.reporter.stage(name, num_turns(turns.readings))

    def _kept(
        self,
        name: str,
        turns: Turns,
        files: Sequence[Path],
        read: Callable[[], list[LabelledState]],
    ) -> list[LabelledState]:
        kept = self.folder / f"{name}.{turns.name}.npz"
        return kept_states(kept, files, turns.readings, self.conditions, read)

    def speeds(self, variants: Sequence[Variant]) -> list[Speed]:
        """Medians of runs that take turns, after one to warm up."""
        done = self.reporter.stage("measuring speed", NUM_SPEED_RUNS * len(variants))
        found: list[list[tuple[float, float]]] = [[] for _ in variants]
        with ExitStack() as stack:
            contexts = []
            for variant in variants:
                model = stack.enter_context(closing(LlamaModel(self.path(variant))))
                context = LlamaContext(model, speed_config(self.num_threads))
                contexts.append(stack.enter_context(closing(context)))
            for run in range(1 + NUM_SPEED_RUNS):
                for speeds, context in zip(found, contexts, strict=True):
                    speed = measure_speed(context.model, context)
                    if run:
                        speeds.append(speed)
                        done(1)
        return [
            Speed(round(median(p for p, _ in runs), 1), round(median(d for _, d in runs), 1))
            for runs in found
        ]
