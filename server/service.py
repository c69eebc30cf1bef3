"""Loads what a server needs: bundle, world, heads, model, engine; and lets go of it again."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

from heads.bundle import Bundle, cache_folder, load_bundle
from heads.loading import check_format, open_encoder
from heads.session import HeadsSession
from rag.calibration import read_calibration
from rag.check import check_names
from rag.embedder import NO_EMBEDDER, Embedder, open_embedder
from rag.index_store import index_folder, open_index
from rag.loader import Source
from rag.retriever import Retriever
from rag.world import World, read_world
from runtime.context_config import MAX_SEQUENCES
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.llama_backend import LlamaContext, LlamaModel, llama_version
from runtime.prefix_store import PrefixStore
from server.metrics import Metrics
from server.pipeline import Dialogue
from server.sessions import Sessions
from server.settings import Settings
from server.tuned import in_force

logger = logging.getLogger(__name__)

PREFIXES = "prefixes"
_REPORTED_TEXTS = 512


@dataclass(slots=True)
class Service:
    """Everything that answers requests; a reload replaces `dialogue`, which is for new turns."""

    settings: Settings
    bundle: Bundle
    engine: Engine
    encoder: PromptEncoder
    heads: HeadsSession
    embedder: Embedder | None
    dialogue: Dialogue
    metrics: Metrics
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One reload at a time."""

    @property
    def world(self) -> World:
        """The world of new turns."""
        return self.dialogue.world

    def reload_world(self) -> World:
        """Read the world's folder again and let new turns see it; turns in flight keep the old one.

        Takes as long as what changed takes to embed. Raises WorldError, the old world still there.
        """
        sources = read_world(self.settings.world)
        warn_of_names(sources, self.bundle)
        world = World(source.document for source in sources)
        retriever = open_retriever(self.settings, world, self.embedder)
        self.dialogue = replace(self.dialogue, world=world, retriever=retriever)
        return world


@contextmanager
def open_service(
    settings: Settings, say: Callable[[str], None] = lambda _: None
) -> Iterator[Service]:
    """Load all parts, run the engine, and free everything at the end.

    Raises BundleError, EmbedderError, ModelError or WorldError, each with its remedy.
    """
    say(f"world {settings.world}")
    sources = read_world(settings.world)
    world = World(source.document for source in sources)
    say(f"bundle {settings.bundle}")
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    check_format(bundle)
    warn_of_names(sources, bundle)
    embedder = None
    if settings.embedder != NO_EMBEDDER:
        say(f"sentence encoder {settings.embedder}")
        embedder = open_embedder(settings.embedder)
        embedder.encode(["."])  # what it makes at its first call is made before the first player's
    retriever = open_retriever(settings, world, embedder, say)
    heads = HeadsSession(bundle.heads, bundle.manifest.heads, bundle.manifest.n_embd)
    model = LlamaModel(bundle.model)
    try:
        encoder = open_encoder(bundle, model)
        with open_engine(settings, bundle, model) as engine:
            dialogue = Dialogue(
                engine=engine,
                encoder=encoder,
                heads=heads,
                world=world,
                bundle_id=bundle.id,
                retriever=retriever,
                note_tokens=settings.note_tokens,
                prompt_tokens=min(settings.prompt_tokens, settings.n_ctx // 2),
                deadline_s=settings.deadline_ms / 1e3,
                on_overload=settings.on_overload,
                fallback=settings.fallback,
                sessions=Sessions(settings.n_conversations),
            )
            metrics = Metrics(lambda: engine.stats, dialogue.sessions.__len__)
            service = Service(settings, bundle, engine, encoder, heads, embedder, dialogue, metrics)
            del sources, world, retriever, dialogue  # what a reload replaces is the service's alone
            yield service
    finally:
        model.close()


@contextmanager
def open_engine(settings: Settings, bundle: Bundle, model: LlamaModel) -> Iterator[Engine]:
    """The engine on its thread, with what it keeps in the KV cache and on disk.

    Raises ModelError.
    """
    tuned = in_force(settings, bundle)
    logger.info("engine: %s", tuned)
    has_prefixes = settings.prefix_mb > 0
    num_sequences = settings.n_sequences + settings.n_residents + has_prefixes
    config = bundle.manifest.context.config(
        n_ctx=settings.n_ctx,
        n_seq_max=min(num_sequences, MAX_SEQUENCES),
        n_threads=tuned.threads,
    )
    config = replace(
        config,
        n_threads_batch=tuned.threads_batch,
        n_batch=max(tuned.step_tokens, config.n_seq_max),
    )
    num_running = min(settings.n_sequences, config.n_seq_max - has_prefixes)
    with ExitStack() as stack:
        prefixes = None
        if has_prefixes:
            key = f"{bundle.id} {bundle.manifest.context} llama-cpp-python {llama_version()}"
            folder = cache_folder() / PREFIXES
            prefixes = PrefixStore(folder, key, settings.prefix_mb * 10**6)
            stack.callback(prefixes.close)
        context = stack.enter_context(closing(LlamaContext(model, config)))
        yield stack.enter_context(
            Engine(
                context,
                max_waiting=settings.max_waiting,
                max_residents=config.n_seq_max - num_running - has_prefixes,
                prefixes=prefixes,
            )
        )


def open_retriever(
    settings: Settings,
    world: World,
    embedder: Embedder | None,
    say: Callable[[str], None] = lambda _: None,
) -> Retriever | None:
    """The index of a world, of which only what is new is embedded. Raises EmbedderError."""
    if embedder is None:
        return None
    calibration = read_calibration(settings.embedder, embedder.id)
    folder = index_folder(settings.world, embedder.id)

    def on_progress(done: int, total: int) -> None:
        if done == total or done % _REPORTED_TEXTS == 0:
            say(f"world index: {done} of {total} new texts embedded")

    index, report = open_index(world.documents, embedder, folder, on_progress)
    say(f"world index: {report.num_texts} texts, {report.num_embedded} of them embedded now")
    return Retriever(embedder, index, calibration)


def warn_of_names(sources: Sequence[Source], bundle: Bundle) -> None:
    """Log flags and deltas of the world that the bundle's heads never predict."""
    heads = bundle.manifest.heads
    names = [[head.name for head in part] for part in (heads.flags, heads.delta)]
    if found := sorted({problem.what for problem in check_names(sources, *names)}):
        logger.warning("documents of the world never apply: %s", "; ".join(found))
