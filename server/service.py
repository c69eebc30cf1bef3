"""Loads what a server needs: bundle, world, heads, model, engine; and lets go of it again."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from heads.bundle import REBUILD, Bundle, BundleError, load_bundle
from heads.session import HeadsSession
from rag.check import check_names
from rag.loader import Source
from rag.world import World, read_world
from runtime import prompt
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.errors import ModelError
from runtime.llama_backend import LlamaContext, LlamaModel
from server.pipeline import Dialogue
from server.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """Everything that answers requests."""

    settings: Settings
    bundle: Bundle
    world: World
    engine: Engine
    encoder: PromptEncoder
    heads: HeadsSession
    dialogue: Dialogue


@contextmanager
def open_service(
    settings: Settings, say: Callable[[str], None] = lambda _: None
) -> Iterator[Service]:
    """Load all parts, run the engine, and free everything at the end.

    Raises BundleError, ModelError or WorldError, each with its remedy.
    """
    say(f"world {settings.world}")
    sources = read_world(settings.world)
    world = World(source.document for source in sources)
    say(f"bundle {settings.bundle}")
    bundle = load_bundle(settings.bundle, verify_hashes=settings.verify_hashes)
    check_format(bundle)
    warn_of_names(sources, bundle)
    heads = HeadsSession(bundle.heads, bundle.manifest.heads, bundle.manifest.n_embd)
    model = LlamaModel(bundle.model)
    try:
        encoder = open_encoder(bundle, model)
        config = bundle.manifest.context.config(
            n_ctx=settings.n_ctx, n_seq_max=settings.n_sequences, n_threads=settings.threads
        )
        context = LlamaContext(model, config)
        try:
            with Engine(context, max_waiting=settings.max_waiting) as engine:
                dialogue = Dialogue(
                    engine=engine,
                    encoder=encoder,
                    heads=heads,
                    world=world,
                    bundle_id=bundle.id,
                    prompt_tokens=min(settings.prompt_tokens, settings.n_ctx // 2),
                    deadline_s=settings.deadline_ms / 1e3,
                    on_overload=settings.on_overload,
                    fallback=settings.fallback,
                )
                yield Service(settings, bundle, world, engine, encoder, heads, dialogue)
        finally:
            context.close()
    finally:
        model.close()


def warn_of_names(sources: Sequence[Source], bundle: Bundle) -> None:
    """Log flags and deltas of the world that the bundle's heads never predict."""
    heads = bundle.manifest.heads
    names = [[head.name for head in part] for part in (heads.flags, heads.delta)]
    if found := sorted({problem.what for problem in check_names(sources, *names)}):
        logger.warning("documents of the world never apply: %s", "; ".join(found))


def check_format(bundle: Bundle) -> None:
    """Raise BundleError if the bundle was trained on another prompt format than we write."""
    found = bundle.manifest.prompt_format
    if found != prompt.FORMAT:
        expected = f"prompt format {prompt.FORMAT}"
        raise BundleError(bundle.folder / "bundle.json", expected, f"format {found}", REBUILD)


def open_encoder(bundle: Bundle, model: LlamaModel) -> PromptEncoder:
    """The encoder for a bundle's model. Raises BundleError if manifest and model disagree."""
    manifest = bundle.manifest
    if model.n_embd != manifest.n_embd:
        expected, found = f"n_embd {manifest.n_embd}", str(model.n_embd)
        raise BundleError(bundle.model, expected, found, REBUILD)
    try:
        return PromptEncoder(model, manifest.special_tokens)
    except ModelError as error:
        raise BundleError(
            bundle.model, "the special tokens of the manifest", str(error), REBUILD
        ) from error
