"""What a bundle brings: model, heads and the engine that runs them, closed when nobody needs it."""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace

from heads.agreement import Agreement, open_agreement
from heads.bundle import Bundle, cache_folder
from heads.loading import check_format, open_encoder
from heads.session import HeadsSession
from runtime.context_config import MAX_SEQUENCES
from runtime.encoder import PromptEncoder
from runtime.engine import Engine
from runtime.kv_cache import Offload
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.llama_library import llama_version
from runtime.pace import Pace
from runtime.prefix_store import PrefixStore
from runtime.swap_space import SwapSpace
from server.settings import Settings
from server.tuned import in_force

logger = logging.getLogger(__name__)

PREFIXES = "prefixes"


@dataclass(slots=True)
class Loaded:
    """A bundle that runs.

    After a reload the turns that began with it finish with it: `retire` says that no more begin,
    and the last one closes it.
    """

    bundle: Bundle
    heads: HeadsSession
    agreement: Agreement | None
    encoder: PromptEncoder
    engine: Engine
    parts: ExitStack = field(default_factory=ExitStack)
    num_users: int = 0
    is_retired: bool = False

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Not closed meanwhile."""
        self.take()
        try:
            yield
        finally:
            self.release()

    def take(self) -> None:
        """One more turn needs it."""
        self.num_users += 1

    def release(self) -> None:
        """One turn less does."""
        self.num_users -= 1
        self._close_if_done()

    def retire(self) -> None:
        """No more turns begin with it."""
        self.is_retired = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self.is_retired and not self.num_users:
            # the event loop must not wait for the engine's thread
            threading.Thread(target=self.parts.close, name="closing a bundle").start()


def open_loaded(settings: Settings, bundle: Bundle, old: Loaded | None = None) -> Loaded:
    """The parts of a bundle, the engine on its thread and warm, in the place of an `old` one.

    Raises BundleError or ModelError, with everything closed again.
    """
    check_format(bundle)
    heads = HeadsSession(bundle.heads, bundle.manifest.heads, bundle.manifest.n_embd)
    agreement = open_agreement(bundle)
    with ExitStack() as stack:
        model = stack.enter_context(closing(LlamaModel(bundle.model)))
        encoder = open_encoder(bundle, model)
        engine = stack.enter_context(open_engine(settings, bundle, model))
        if old:
            engine.pace = Pace(old.engine.pace)
        return Loaded(bundle, heads, agreement, encoder, engine, stack.pop_all())


@contextmanager
def open_engine(settings: Settings, bundle: Bundle, model: LlamaModel) -> Iterator[Engine]:
    """The engine on its thread, with what it keeps in the KV cache, in memory and on disk.

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
                offload=Offload(prefixes, SwapSpace(settings.swap_mb * 10**6)),
            )
        )
