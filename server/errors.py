"""What can go wrong with a request, and the one table that makes problem+json of it."""

import math
from dataclasses import dataclass

import msgspec

from heads.bundle import BundleError
from rag.embedder import EmbedderError
from rag.loader import WorldError
from runtime.errors import EngineStopped, ModelError, Overloaded, PromptTooLong
from server.settings import SettingsError


class RequestError(Exception):
    """A request that cannot be answered; the text says what is wrong with which value."""


class MalformedBody(RequestError):
    """The body is not JSON."""


class BodyTooLarge(RequestError):
    """The body is over the limit."""


class UnknownNpc(RequestError):
    """The world has no NPC of this id."""


class DeadlinePassed(RequestError):
    """The state was not ready in time, and there is no world to answer from."""


class Forbidden(RequestError):
    """An admin route was asked without its key, or a server without keys by a web page."""


class Unauthorized(RequestError):
    """A route of the game was asked without an API key, or with a wrong one."""


class RateLimited(RequestError):
    """A caller asks too often; the next turn may come in `retry_after_s` seconds."""

    def __init__(self, what: str, retry_after_s: float) -> None:
        self.retry_after_s = math.ceil(retry_after_s)
        super().__init__(what)


class IdempotencyConflict(RequestError):
    """An `Idempotency-Key` came with another body or session than the first time."""


class Draining(RequestError):
    """The server ends soon: it answers what comes, but nothing more should be sent to it."""


class InvalidField(RequestError):
    """A field has a wrong type or value; `path` is a JSON path like `$.context.npc_state.trust`.

    `what` is said of it: `is empty`.
    """

    def __init__(self, path: str, what: str) -> None:
        self.path = path
        super().__init__(f"{path} {what}")


@dataclass(frozen=True, slots=True)
class Kind:
    """How an error is told over HTTP. `code` is stable: clients may branch on it."""

    status: int
    code: str
    title: str
    retry_after_s: int | None = None


TABLE: dict[type[Exception], Kind] = {
    MalformedBody: Kind(400, "malformed_json", "The body is not valid JSON"),
    Unauthorized: Kind(401, "unauthorized", "This route needs an API key"),
    Forbidden: Kind(403, "forbidden", "This caller may not use this route"),
    UnknownNpc: Kind(404, "unknown_npc", "No such NPC"),
    BodyTooLarge: Kind(413, "body_too_large", "The body is too large"),
    InvalidField: Kind(422, "invalid_field", "A field has a wrong type or value"),
    PromptTooLong: Kind(422, "prompt_too_long", "The prompt can never fit"),
    Overloaded: Kind(429, "overloaded", "Too many requests are waiting", retry_after_s=2),
    WorldError: Kind(409, "world_refused", "The world has errors; the old one keeps serving"),
    BundleError: Kind(409, "bundle_refused", "The bundle has errors; the old one keeps serving"),
    ModelError: Kind(409, "bundle_refused", "The bundle has errors; the old one keeps serving"),
    EmbedderError: Kind(409, "embedder_refused", "The encoder has errors; the old one stays"),
    SettingsError: Kind(409, "keys_refused", "The API keys have errors; the old ones stay"),
    IdempotencyConflict: Kind(409, "idempotency_conflict", "The key came with another body"),
    RateLimited: Kind(429, "rate_limited", "Too many requests a minute"),
    Draining: Kind(503, "draining", "The server is about to end", retry_after_s=5),
    DeadlinePassed: Kind(503, "deadline", "The deadline passed", retry_after_s=2),
    EngineStopped: Kind(503, "not_ready", "The engine is not running", retry_after_s=5),
}
INTERNAL = Kind(500, "internal", "The server failed")
NOT_FOUND = Kind(404, "not_found", "No such route")
METHOD_NOT_ALLOWED = Kind(405, "method_not_allowed", "The route has other methods")


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error as RFC 9457 problem details, with the stable `code` and, for 422, the `field`."""

    title: str
    """The kind of error, in words."""
    status: int
    """The HTTP status."""
    code: str
    """Stable: clients may branch on it."""
    detail: str
    """What is wrong with which value, and what to do."""
    field: str | None = None
    """On 422 the JSON path of the value that is wrong, or the name of the header."""
    type: str = "about:blank"
    """Always `about:blank`."""


def kind_of(error: Exception) -> Kind:
    """The table's entry for `error`, INTERNAL if it has none."""
    return next((TABLE[cls] for cls in type(error).__mro__ if cls in TABLE), INTERNAL)


def problem_of(error: Exception) -> Problem:
    """The problem to send for `error`; the text of an unexpected one stays inside."""
    kind = kind_of(error)
    detail = kind.title if kind is INTERNAL else str(error)
    return Problem(kind.title, kind.status, kind.code, detail, getattr(error, "path", None))
