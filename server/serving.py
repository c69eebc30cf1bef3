"""`persona serve`: the application under uvicorn, from start to a graceful end."""

import asyncio
import logging
import shlex
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import h11
import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from heads.bundle import BundleError
from rag.embedder import EmbedderError
from rag.loader import WorldError
from runtime.errors import RuntimeFault
from runtime.host import set_aside_what_is_loaded, use_one_arena
from server.http import make_app
from server.origins import read_origins
from server.ports import address_of, check_port
from server.service import Service, open_service
from server.settings import Settings, SettingsError

_MARGIN_S = 5
"""Beyond the deadline of a turn, for its last bytes to leave."""

logger = logging.getLogger(__name__)


class Http(H11Protocol):
    """HTTP/1.1 by h11: it keeps 16 KiB of headers that do not end, and reads on past an `Upgrade`.

    httptools does neither.
    """

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; once an answer has begun, nothing more can be said."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        else:
            self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: Java's client and `curl --http2` offer HTTP/2 with each request."""


class SignalledServer(uvicorn.Server):
    """Loads anew at SIGHUP; drains at SIGTERM, and where the engine has ended under it.

    For `drain_s` seconds `/readyz` is red; then it ends as uvicorn does: no new connections, turns
    in flight finish. Ctrl-C, and a second signal, spare it the wait.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain_s: float) -> None:
        super().__init__(config)
        self._service, self._drain_s = service, drain_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reload: asyncio.Task[None] | None = None
        self.has_lost_engine = False
        """Whether it ends because its engine has."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn.Server."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        await super().startup(sockets)
        if self.started:
            _tell_ready(self._service, address_of(self))

    async def on_tick(self, counter: int) -> bool:
        """See uvicorn.Server, which calls it ten times a second."""
        if not (self._service.is_draining or self.should_exit or self._service.engine.is_running):
            logger.error("the engine is not running; ending, to be started anew")
            self.has_lost_engine = self._service.is_draining = True
            asyncio.get_running_loop().call_later(self._drain_s, setattr, self, "should_exit", True)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn.Server."""
        if sig != signal.SIGTERM or self._service.is_draining or self._loop is None:
            super().handle_exit(sig, frame)
            return
        self._service.is_draining = True
        end = super().handle_exit
        self._loop.call_soon_threadsafe(self._loop.call_later, self._drain_s, end, sig, frame)

    def _on_hangup(self) -> None:
        self._reload = asyncio.create_task(_reload(self._service))


def _tell_ready(service: Service, url: str) -> None:
    """Where to look and, to people, what to type."""
    logger.info("ready: %s/ (playground), %s/docs (API)", url, url)
    npc = next(iter(service.world.npcs.values()), None)
    if npc is None or service.settings.log_format == "json":
        return
    text = {"ko": "안녕하세요", "en": "Hello"}[npc.lang]
    body = msgspec.json.encode({"text": text, "npc_id": npc.npc_id, "player_id": "p1"}).decode()
    key = "-H 'Authorization: Bearer KEY' " if service.keys.hashes else ""
    logger.info("try: curl %s/ask %s-d %s", url, key, shlex.quote(body))


async def _reload(service: Service) -> None:
    try:
        await service.reload()
    except (BundleError, EmbedderError, RuntimeFault, SettingsError, WorldError) as error:
        logger.error("nothing was loaded anew, what served keeps serving: %s", error)
    except Exception:
        logger.exception("nothing was loaded anew, what served keeps serving")
    else:
        logger.info("loaded anew; bundle %s", service.dialogue.bundle_id)


def serve(settings: Settings) -> bool:
    """Serve until SIGTERM or Ctrl-C; whether it came to that, and to no end of its own.

    Raises what `check_port`, `read_origins` and `open_service` raise: told by uvicorn, a sentence
    would come with a traceback.
    """
    check_port(settings.host, settings.port)
    origins = read_origins(settings)
    use_one_arena()
    with ExitStack() as stack:
        loading = open_service(settings, lambda part: logger.info("loading %s", part))
        service = stack.enter_context(loading)
        set_aside_what_is_loaded()

        @contextmanager
        def handed_over() -> Iterator[Service]:
            with stack.pop_all():  # closed before uvicorn ends the process by its signal
                yield service

        config = uvicorn.Config(
            make_app(handed_over, origins),
            host=settings.host,
            port=settings.port,
            http=Http,
            ws="none",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=settings.deadline_ms // 1_000 + _MARGIN_S,
        )
        server = SignalledServer(config, service, settings.drain_ms / 1e3)
        server.run()
    return server.started and not server.has_lost_engine
