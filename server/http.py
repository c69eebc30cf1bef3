"""The Starlette application: routes, request decoding, problem+json, server-sent events."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from typing import TypedDict, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from rag.loader import WorldError
from rag.schema_errors import locate
from runtime.errors import EngineStopped, RuntimeFault
from server.errors import (
    INTERNAL,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    BodyTooLarge,
    Forbidden,
    InvalidField,
    MalformedBody,
    Problem,
    RequestError,
    kind_of,
    problem_of,
)
from server.metrics import MEDIA_TYPE, Metrics
from server.pipeline import PipelineEvent
from server.predict import predict
from server.schemas import Answer, AskRequest, PredictRequest, StateEvent, TokenEvent
from server.service import Service

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVENT_STREAM = "text/event-stream"
_NO_BUFFER = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_THIS_MACHINE = {"127.0.0.1", "::1"}
_CLIENT_GONE = 499  # nginx's word for it; nobody reads it
_EVENT_NAMES: dict[type, str] = {StateEvent: "state", TokenEvent: "token", Answer: "done"}


class State(TypedDict):
    """What a request finds under `request.state`."""

    service: Service


def make_app(open_service: Callable[[], AbstractContextManager[Service]]) -> Starlette:
    """The application; `open_service` is entered at start-up and left at shutdown."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[State]:
        with open_service() as service:
            yield {"service": service}

    return Starlette(
        routes=[
            Route("/ask", ask, methods=["POST"]),
            Route("/predict_main", predict_main, methods=["POST"]),
            Route("/npcs", npcs),
            Route("/admin/reload", reload, methods=["POST"]),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", metrics),
        ],
        exception_handlers={
            ClientDisconnect: on_client_gone,
            HTTPException: on_http_error,
            RequestError: on_error,
            RuntimeFault: on_error,
            WorldError: on_error,
            Exception: on_error,
        },
        lifespan=lifespan,
    )


async def ask(request: Request) -> Response:
    """Answer one turn, as JSON or as server-sent events."""
    service: Service = request.state.service
    body = await _read(request, AskRequest)
    turn = service.dialogue.read(body)
    is_streamed = body.stream or EVENT_STREAM in request.headers.get("accept", "")
    events = service.dialogue.answer(body, turn, is_streamed=is_streamed)
    if is_streamed:
        # an overload that is told by status must come before the first event
        first = await _unless_gone(request, _first(events))
        body_parts = _sse(first, events, service.metrics)
        return StreamingResponse(body_parts, media_type=EVENT_STREAM, headers=_NO_BUFFER)
    answer = await _unless_gone(request, _last(events))
    service.metrics.count_answer(answer)
    return _json(answer)


async def predict_main(request: Request) -> Response:
    """Run a whole prompt in the tagged text format."""
    service: Service = request.state.service
    body = await _read(request, PredictRequest)
    return _json(await _unless_gone(request, predict(service, body)))


async def npcs(request: Request) -> Response:
    """List the NPCs of the loaded world."""
    service: Service = request.state.service
    return _json(
        [
            {
                "npc_id": persona.npc_id,
                "name": persona.name,
                "lang": persona.lang,
                "stages": persona.stages,
                "locations": persona.locations,
            }
            for persona in service.world.npcs.values()
        ]
    )


async def reload(request: Request) -> Response:
    """Load the world anew beside the old one; turns that begin from then on see it."""
    service: Service = request.state.service
    _check_admin(request, service.settings.admin_key)
    async with service.reloading:
        world = await asyncio.to_thread(service.reload_world)
    return _json(
        {"status": "reloaded", "documents": len(world.documents), "npcs": sorted(world.npcs)}
    )


def _check_admin(request: Request, key: str | None) -> None:
    """The key as a bearer token; where none is set, callers on this machine alone."""
    if key is None:
        host = request.client.host if request.client else ""
        if host not in _THIS_MACHINE:
            raise Forbidden("set PERSONA_ADMIN_KEY to use admin routes from another machine")
        return
    given = request.headers.get("authorization", "")
    if not secrets.compare_digest(given.encode(), f"Bearer {key}".encode()):
        raise Forbidden("send the admin key as `Authorization: Bearer KEY`")


async def healthz(_: Request) -> Response:
    """Tell that the process answers."""
    return _json({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Tell whether turns can be answered by the model now."""
    service: Service = request.state.service
    if not service.engine.is_running:
        raise EngineStopped("the engine is not running")
    return _json({"status": "ready", "bundle": service.dialogue.bundle_id})


async def metrics(request: Request) -> Response:
    """Tell what was counted, in Prometheus' text format."""
    service: Service = request.state.service
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)


async def on_error(request: Request, error: Exception) -> Response:
    """Make problem+json of any error, by the one table."""
    kind = kind_of(error)
    if kind is INTERNAL:
        logger.error("unexpected error", exc_info=error)
    headers = {"Retry-After": str(kind.retry_after_s)} if kind.retry_after_s else {}
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


def _problem(request: Request, problem: Problem, headers: dict[str, str]) -> Response:
    service: Service = request.state.service
    service.metrics.count_error(problem.code)
    body = msgspec.json.encode(problem)
    return Response(body, problem.status, headers, media_type="application/problem+json")


def _json(content: object) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _read(request: Request, schema: type[T]) -> T:
    """The body as `schema`. Raises BodyTooLarge, MalformedBody or InvalidField."""
    limit = request.state.service.settings.max_body_bytes
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise BodyTooLarge(f"the body is over {limit} bytes; send a shorter history")
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError as error:
        raise InvalidField(*locate(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBody(str(error)) from error


async def _unless_gone(request: Request, answer: Coroutine[None, None, T]) -> T:
    """What `answer` comes to; if the client goes away first it is cancelled: ClientDisconnect."""
    work = asyncio.create_task(answer)
    gone = asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientDisconnect
        return work.result()
    finally:
        work.cancel()
        gone.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _first(events: AsyncGenerator[PipelineEvent]) -> PipelineEvent:
    return await anext(events)


async def _last(events: AsyncGenerator[PipelineEvent]) -> Answer:
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Answer):
                return event
    raise AssertionError("a turn ends with an answer")


async def _sse(
    first: PipelineEvent, rest: AsyncGenerator[PipelineEvent], metrics: Metrics
) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield _sse_event(first)
        async for event in rest:
            if isinstance(event, Answer):
                metrics.count_answer(event)
            yield _sse_event(event)


def _sse_event(event: PipelineEvent) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (
        _EVENT_NAMES[type(event)].encode(),
        msgspec.json.encode(event),
    )
