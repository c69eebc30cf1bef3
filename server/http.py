"""The Starlette application: routes, request decoding, problem+json."""

import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractContextManager, asynccontextmanager
from functools import partial
from typing import TypedDict

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from heads.bundle import BundleError
from rag.embedder import EmbedderError
from rag.loader import WorldError
from runtime.errors import EngineStopped, RuntimeFault
from server import playground, swagger
from server.envelope import REQUEST_ID, Envelope
from server.errors import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    Draining,
    Forbidden,
    Problem,
    RequestError,
    Unauthorized,
    kind_of,
    problem_of,
)
from server.keys import check_admin
from server.logs import log_turn
from server.metrics import MEDIA_TYPE
from server.npcs import npc_entries
from server.openapi import document
from server.origins import check_host, check_origin
from server.predict import predict
from server.reading import (
    DEADLINE_MS,
    SESSION_ID,
    check_id,
    decode,
    notices_of,
    read_body,
    with_headers,
)
from server.schemas import Answer, AskRequest, PredictRequest
from server.service import Service
from server.settings import SettingsError
from server.turn_events import EVENT_STREAM, Events, EventStream, HeldEvents, answer_of, unless_gone

logger = logging.getLogger(__name__)

IDEMPOTENCY_KEY = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"

_CLIENT_GONE = 499  # nginx's word for it; nobody reads it
_GZIP_BYTES = 2_048
_NO_STORE = {"Cache-Control": "no-store"}


class State(TypedDict):
    """What a request finds under `request.state`."""

    service: Service
    origins: Collection[str]
    """Of the web pages that may call."""


def make_app(
    open_service: Callable[[], AbstractContextManager[Service]], origins: Collection[str] = ()
) -> Starlette:
    """The application; `open_service` is entered at start-up and left at shutdown.

    `origins` are as `read_origins` gives them.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        with open_service() as service:
            try:
                yield {"service": service, "origins": origins}
            finally:
                await service.idempotency.close()

    middleware = [Middleware(Envelope), Middleware(GZipMiddleware, minimum_size=_GZIP_BYTES)]
    if origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(origins),
                allow_methods=["GET", "POST"],
                allow_headers=[
                    *("Authorization", "Content-Type"),
                    *(REQUEST_ID, SESSION_ID, DEADLINE_MS, IDEMPOTENCY_KEY),
                ],
                expose_headers=[REQUEST_ID, REPLAYED, "Retry-After"],
            )
        )
    # innermost: Starlette's own handler of `Exception` answers outside of the others
    middleware.append(Middleware(ExceptionMiddleware, handlers={Exception: on_error}))
    return Starlette(
        routes=[
            Route("/ask", ask, methods=["POST"]),
            Route("/predict_main", predict_main, methods=["POST"]),
            Route("/npcs", npcs),
            Route("/admin/reload", reload, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
            Route("/openapi.json", openapi),
            *swagger.routes(),
            *playground.routes(),
        ],
        middleware=middleware,
        exception_handlers={
            ClientDisconnect: on_client_gone,
            HTTPException: on_http_error,
            BundleError: on_error,
            EmbedderError: on_error,
            RequestError: on_error,
            RuntimeFault: on_error,
            SettingsError: on_error,
            WorldError: on_error,
        },
        lifespan=lifespan,
    )


async def ask(request: Request) -> Response:
    """Answer one turn, as JSON or as server-sent events."""
    service: Service = request.state.service
    owner = _owner(request)
    body = await read_body(request)
    asked = with_headers(decode(body, AskRequest), request)
    is_streamed = asked.stream or EVENT_STREAM in request.headers.get("accept", "")
    begin = partial(_begin, service, asked, owner, body=body, is_streamed=is_streamed)
    events: Events
    is_replay = False
    if (key := request.headers.get(IDEMPOTENCY_KEY)) is None:
        events = begin()
    else:
        check_id(key, IDEMPOTENCY_KEY)
        digest = hashlib.sha256(b"%b\0%b" % (body, (asked.session_id or "").encode())).digest()
        events, is_replay = service.idempotency.turn((owner, key), digest, begin)
    try:
        if is_streamed:
            response: Response = await unless_gone(request, EventStream.begin(events))
        else:
            response = _json(await unless_gone(request, answer_of(events)))
    except BaseException:
        await events.aclose()
        raise
    if is_replay:
        response.headers[REPLAYED] = "true"
    return response


def _begin(
    service: Service, asked: AskRequest, owner: str, *, body: bytes, is_streamed: bool
) -> Events:
    """The turn that is asked for. Raises RequestError, nothing begun."""
    _count_turn(service, owner, asked.player_id)
    dialogue = service.dialogue
    turn = dialogue.read(asked, notices_of(body))

    def on_answer(answer: Answer) -> None:
        service.metrics.count_answer(answer)
        log_turn(answer, turn.utterance if service.settings.log_text else None)

    events = dialogue.answer(asked, turn, owner=owner, is_streamed=is_streamed)
    return HeldEvents(events, service.loaded, on_answer)


def _count_turn(service: Service, owner: str, player_id: str) -> None:
    """Hold a turn against its player's limit and its key's; one over either counts for neither.

    Raises RateLimited.
    """
    player = f"{owner} {player_id}"
    if service.player_rate is not None:
        service.player_rate.check(player)
    if service.key_rate is not None:
        service.key_rate.take(owner)
    if service.player_rate is not None:
        service.player_rate.take(player)


async def predict_main(request: Request) -> Response:
    """Run a whole prompt in the tagged text format."""
    service: Service = request.state.service
    owner = _owner(request)
    body = decode(await read_body(request), PredictRequest)
    if service.key_rate is not None:
        service.key_rate.take(owner)
    return _json(await unless_gone(request, predict(service, body)))


async def npcs(request: Request) -> Response:
    """List the NPCs of the loaded world."""
    service: Service = request.state.service
    _owner(request)
    return _json(npc_entries(service.world))


async def reload(request: Request) -> Response:
    """Load what changed beside what serves; turns that begin from then on see it."""
    service: Service = request.state.service
    _check_admin(request)
    await service.reload()
    world = service.world
    return _json(
        {
            "status": "reloaded",
            "bundle": service.dialogue.bundle_id,
            "documents": len(world.documents),
            "npcs": sorted(world.npcs),
        }
    )


async def healthz(_: Request) -> Response:
    """Tell that the process answers."""
    return _json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether turns can be answered by the model now, and for some time to come."""
    service: Service = request.state.service
    if service.is_draining:
        raise Draining("the server is about to end; send new turns elsewhere")
    if not service.engine.is_running:
        raise EngineStopped("the engine is not running")
    return _json({"status": "ready", "bundle": service.dialogue.bundle_id})


async def metrics(request: Request) -> Response:
    """Tell what was counted, in Prometheus' text format, to any key."""
    service: Service = request.state.service
    try:
        _owner(request)
    except (Unauthorized, Forbidden):
        if service.settings.admin_key is None:
            raise
        _check_admin(request)
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)


async def openapi(_: Request) -> Response:
    """Tell all of this in OpenAPI 3.1."""
    return _json(document())


async def on_error(request: Request, error: Exception) -> Response:
    """Make problem+json of any error, by the one table."""
    kind = kind_of(error)
    if kind is INTERNAL:
        logger.error("unexpected error", exc_info=error)
    headers = {}
    if retry_after_s := getattr(error, "retry_after_s", kind.retry_after_s):
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _problem(request, problem_of(error), headers)


async def on_client_gone(_: Request, __: Exception) -> Response:
    """Answer nobody."""
    return Response(status_code=_CLIENT_GONE)


async def on_http_error(request: Request, error: Exception) -> Response:
    """Make problem+json of what the router refuses."""
    assert isinstance(error, HTTPException)
    kind = METHOD_NOT_ALLOWED if error.status_code == METHOD_NOT_ALLOWED.status else NOT_FOUND
    problem = Problem(kind.title, error.status_code, kind.code, error.detail)
    return _problem(request, problem, dict(error.headers or {}))


def _owner(request: Request) -> str:
    """Id of the caller's API key. Raises Unauthorized, or Forbidden where no key is needed."""
    service: Service = request.state.service
    if not service.keys.hashes:
        check_origin(request.headers, request.state.origins)
        if service.settings.auth == "auto":
            check_host(request.headers)
    return service.keys.owner(request.headers.get("authorization", ""))


def _check_admin(request: Request) -> None:
    service: Service = request.state.service
    host = request.client.host if request.client else ""
    given = request.headers.get("authorization", "")
    if "origin" in request.headers and service.settings.admin_key is None:
        raise Forbidden("set PERSONA_ADMIN_KEY to use admin routes from a web page")
    check_admin(given, host, service.settings.admin_key)


def _problem(request: Request, problem: Problem, headers: dict[str, str]) -> Response:
    service: Service = request.state.service
    service.metrics.count_error(problem.code)
    body = msgspec.json.encode(problem)
    return Response(
        body, problem.status, _NO_STORE | headers, media_type="application/problem+json"
    )


def _json(content: object) -> Response:
    body = msgspec.json.encode(content)
    return Response(body, headers=_NO_STORE, media_type="application/json")
