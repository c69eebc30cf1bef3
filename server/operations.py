"""Every route as clients see it: what it takes, what it answers, which problems it may tell."""

from dataclasses import dataclass
from typing import Any, Literal

from heads.bundle import BundleError
from rag.embedder import EmbedderError
from rag.loader import WorldError
from runtime.errors import EngineStopped, ModelError, Overloaded, PromptTooLong
from server.errors import (
    BodyTooLarge,
    DeadlinePassed,
    Draining,
    Forbidden,
    IdempotencyConflict,
    InvalidField,
    MalformedBody,
    RateLimited,
    Unauthorized,
    UnknownNpc,
)
from server.route_schemas import Alive, NpcEntry, Ready, Reloaded
from server.schemas import Answer, AskRequest, Prediction, PredictRequest
from server.settings import SettingsError

JSON = "application/json"
EVENT_STREAM = "text/event-stream"
TEXT = "text/plain"
HTML = "text/html"

_BODY = (MalformedBody, BodyTooLarge, InvalidField)
_TURN = (Unauthorized, Forbidden, Overloaded, EngineStopped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One route. `answers` says which schema each media type has; None is text."""

    path: str
    name: str
    summary: str
    description: str = ""
    method: Literal["get", "post"] = "get"
    tag: Literal["turns", "world", "operation", "pages"]
    headers: tuple[str, ...] = ()
    """Parameters besides X-Request-ID, by their names among the document's components."""
    keys: tuple[Literal["apiKey", "adminKey"], ...] = ()
    """Of which one opens it, on a server that asks for keys."""
    body: type | None = None
    answers: dict[str, Any]
    problems: tuple[type[Exception], ...] = ()


OPERATIONS = (
    Operation(
        path="/ask",
        name="ask",
        method="post",
        tag="turns",
        summary="Answer what a player says",
        description="One line of the NPC, the change of its heart, and the game events that fire. "
        "As JSON, or as server-sent events where `stream` is true or the client accepts "
        "`text/event-stream`. A turn that the model cannot answer ends in an authored line, not "
        "in an error: 200 with `meta.valid` false.",
        headers=("IdempotencyKey", "DeadlineMs", "SessionId"),
        keys=("apiKey",),
        body=AskRequest,
        answers={JSON: Answer, EVENT_STREAM: None},
        problems=(*_BODY, *_TURN, UnknownNpc, RateLimited, IdempotencyConflict),
    ),
    Operation(
        path="/predict_main",
        name="predictMain",
        method="post",
        tag="turns",
        summary="Run a whole prompt in the tagged text format",
        description="What the heads and the model make of a prompt of your own. No world has a "
        "say and nothing is remembered.",
        keys=("apiKey",),
        body=PredictRequest,
        answers={JSON: Prediction},
        problems=(*_BODY, *_TURN, RateLimited, PromptTooLong, DeadlinePassed),
    ),
    Operation(
        path="/npcs",
        name="listNpcs",
        tag="world",
        summary="List the NPCs of the loaded world",
        keys=("apiKey",),
        answers={JSON: list[NpcEntry]},
        problems=(Unauthorized, Forbidden),
    ),
    Operation(
        path="/admin/reload",
        name="reload",
        method="post",
        tag="operation",
        summary="Read the world, the bundle and the API keys again",
        description="They are made ready beside what serves. Turns in flight finish with what "
        "they began with; what has errors is refused, and the old goes on. Without an admin key "
        "only this machine may ask for it.",
        keys=("adminKey",),
        answers={JSON: Reloaded},
        problems=(Forbidden, WorldError, BundleError, ModelError, EmbedderError, SettingsError),
    ),
    Operation(
        path="/healthz",
        name="isAlive",
        tag="operation",
        summary="Tell whether the process answers",
        answers={JSON: Alive},
    ),
    Operation(
        path="/readyz",
        name="isReady",
        tag="operation",
        summary="Tell whether turns can be sent here",
        answers={JSON: Ready},
        problems=(EngineStopped, Draining),
    ),
    Operation(
        path="/metrics",
        name="getMetrics",
        tag="operation",
        summary="Tell what was counted, in Prometheus' text format",
        keys=("apiKey", "adminKey"),
        answers={TEXT: None},
        problems=(Unauthorized, Forbidden),
    ),
    Operation(
        path="/openapi.json",
        name="getOpenApi",
        tag="pages",
        summary="This document",
        answers={JSON: dict[str, Any]},
    ),
    Operation(
        path="/docs",
        name="getDocs",
        tag="pages",
        summary="This document as a page on which each route can be tried",
        answers={HTML: None},
    ),
    Operation(
        path="/",
        name="getPlayground",
        tag="pages",
        summary="A page on which a designer talks with the NPCs",
        answers={HTML: None},
    ),
)
