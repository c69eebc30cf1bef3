"""Loads what a server needs: bundle, world, sentence encoder, keys; and loads it anew."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from heads.bundle import Bundle, load_bundle
from rag.calibration import read_calibration
from rag.check import check_names
from rag.embedder import NO_EMBEDDER, Embedder, open_embedder
from rag.index_store import index_folder, open_index
from rag.loader import Source
from rag.retriever import Retriever
from rag.world import World, read_world
from runtime.engine import Engine
from runtime.host import has_set_aside, set_aside_what_is_loaded
from server.encoder_threads import EncoderThreads
from server.idempotency import Idempotency
from server.keys import KeyRing, read_keys
from server.loaded import Loaded, open_loaded
from server.metrics import Metrics
from server.pipeline import Dialogue
from server.rates import RateLimit
from server.schemas import MAX_TEXT
from server.sessions import Sessions
from server.settings import Settings

logger = logging.getLogger(__name__)

_REPORTED_TEXTS = 512


@dataclass(slots=True)
class Service:
    """Everything that answers requests; a reload replaces what new turns begin with."""

    settings: Settings
    embedder: Embedder | None
    loaded: Loaded
    dialogue: Dialogue
    metrics: Metrics
    keys: KeyRing = field(default_factory=KeyRing)
    idempotency: Idempotency = field(default_factory=Idempotency)
    key_rate: RateLimit | None = None
    player_rate: RateLimit | None = None
    is_draining: bool = False
    """Whether the server ends soon."""
    reloading: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One reload at a time."""

    @property
    def world(self) -> World:
        """The world of new turns."""
        return self.dialogue.world

    @property
    def engine(self) -> Engine:
        """The engine of new turns."""
        return self.loaded.engine

    async def reload(self) -> None:
        """Read the world, the bundle and the API keys again, and let new turns begin with them.

        What changed is made ready beside what serves, which takes as long as that takes to load and
        to embed, and a second model's memory if it is the bundle. Turns in flight finish with what
        they began with. Raises WorldError, BundleError, ModelError, EmbedderError or SettingsError,
        with nothing changed.
        """
        async with self.reloading:
            keys = read_keys(self.settings)
            loaded, dialogue = await asyncio.to_thread(self._load)
            old, self.keys, self.loaded, self.dialogue = self.loaded, keys, loaded, dialogue
            if old is not loaded:
                old.retire()
            if has_set_aside():
                set_aside_what_is_loaded()

    def _load(self) -> tuple[Loaded, Dialogue]:
        settings, loaded = self.settings, self.loaded
        sources = read_world(settings.world)
        world = World(source.document for source in sources)
        bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
        warn_of_names(sources, bundle)
        retriever = open_retriever(settings, world, self.embedder)
        if bundle.id != loaded.bundle.id:
            loaded = open_loaded(settings, bundle, loaded)
        dialogue = replace(
            self.dialogue,
            engine=loaded.engine,
            encoder=loaded.encoder,
            heads=loaded.heads,
            agreement=loaded.agreement,
            bundle_id=loaded.bundle.id,
            world=world,
            retriever=retriever,
        )
        return loaded, dialogue


@contextmanager
def open_service(
    settings: Settings, say: Callable[[str], None] = lambda _: None
) -> Iterator[Service]:
    """Load all parts, run the engine, and free everything at the end.

    Raises BundleError, EmbedderError, ModelError, SettingsError or WorldError, each with its
    remedy.
    """
    keys = read_keys(settings)
    say(f"world {settings.world}")
    sources = read_world(settings.world)
    world = World(source.document for source in sources)
    say(f"bundle {settings.bundle}")
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    warn_of_names(sources, bundle)
    embedder = None
    if settings.embedder != NO_EMBEDDER:
        say(f"sentence encoder {settings.embedder}")
        embedder = open_embedder(settings.embedder)
        # what it makes at its first call, or first long one, is made before a player waits for it
        embedder.hear("a " * (MAX_TEXT // 2))
    retriever = open_retriever(settings, world, embedder, say)
    if embedder is not None:
        embedder.stand_back()
    loaded = open_loaded(settings, bundle)
    dialogue = Dialogue(
        engine=loaded.engine,
        encoder=loaded.encoder,
        heads=loaded.heads,
        agreement=loaded.agreement,
        world=world,
        bundle_id=bundle.id,
        retriever=retriever,
        note_tokens=settings.note_tokens,
        prompt_tokens=min(settings.prompt_tokens, settings.n_ctx // 2),
        deadline_s=settings.deadline_ms / 1e3,
        on_overload=settings.on_overload,
        fallback=settings.fallback,
        sessions=Sessions(settings.n_conversations),
        threads=EncoderThreads(settings.max_waiting),
    )
    service = Service(
        settings,
        embedder,
        loaded,
        dialogue,
        Metrics(lambda: service.engine.stats, dialogue.sessions.__len__),
        keys,
        key_rate=_rate("API key", settings.rate_per_key),
        player_rate=_rate("player", settings.rate_per_player),
    )
    del sources, world, retriever, dialogue, loaded  # a reload lets go of them
    try:
        yield service
    finally:
        service.dialogue.threads.close()
        service.loaded.parts.close()


def _rate(who: str, per_minute: int | None) -> RateLimit | None:
    return None if per_minute is None else RateLimit(who, per_minute)


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
