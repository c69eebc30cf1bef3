"""The OpenAPI 3.1 document, made of the msgspec schemas, the table of errors and the operations."""

from collections import defaultdict
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias, get_args

import msgspec

from rag import conditions
from runtime.prompt import Special
from server import errors, explanation, route_schemas, schemas
from server.errors import INTERNAL, METHOD_NOT_ALLOWED, NOT_FOUND, TABLE, Kind, Problem
from server.fallback import Reason
from server.field_docs import field_docs
from server.idempotency import LIFETIME_S, MAX_TURNS
from server.line_check import REASONS
from server.openapi_examples import ANSWERS, EVENTS, REQUESTS
from server.operations import EVENT_STREAM, OPERATIONS, Operation
from server.schemas import MAX_SESSION_ID, Answer, StateEvent, TokenEvent
from server.sessions import History

Json: TypeAlias = dict[str, Any]

PROBLEM_JSON = "application/problem+json"
_REF = "#/components/schemas/{name}"
_RETRIED = {429, 503}
_STRUCTS = {
    name: kind
    for module in (conditions, errors, explanation, route_schemas, schemas)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
}
_EVENT_TYPES = {"state": StateEvent, "token": TokenEvent, "done": Answer, "error": Problem}

_DESCRIPTION = """\
A game server sends what a player said and the state of the game. One answer comes back with the
NPC's line (`text`), the change of trust and relationship (`delta`) and the game events that fire
(`flags`).

Errors are `application/problem+json` with a stable `code`, whatever the route: `not_found` (404)
and `method_not_allowed` (405) too.

Every response has an `X-Request-ID`: the one that was sent, if it can be used, else a new one.
"""
_TAGS = {
    "turns": "What a game server calls.",
    "world": "What the world holds.",
    "operation": "For whoever runs the server.",
    "pages": "For the browser.",
}
_SECURITY = {
    "apiKey": "One of the server's API keys (`PERSONA_API_KEYS`, `PERSONA_API_KEYS_FILE`). A "
    "server that only its own machine can reach needs none unless one is set.",
    "adminKey": "The admin key (`PERSONA_ADMIN_KEY`). Without one, only this machine is let in.",
}
_PARAMETERS: dict[str, Json] = {
    "RequestId": {
        "name": "X-Request-ID",
        "schema": {"type": "string"},
        "description": "Comes back in the response and stands in the log, if it is up to 128 "
        "letters, digits and `_.:/+=-`; else a new one does.",
    },
    "IdempotencyKey": {
        "name": "Idempotency-Key",
        "schema": {"type": "string", "minLength": 1, "maxLength": 128},
        "description": "A turn that is sent again with the key, body and session of the first gets "
        f"its answer, not a second turn, for {LIFETIME_S / 60:.0f} minutes. A server keeps "
        f"{MAX_TURNS:,}: the oldest of the API key that has most is forgotten first.",
    },
    "DeadlineMs": {
        "name": "X-Deadline-Ms",
        "schema": {"type": "integer", "minimum": 1, "maximum": 999_999_999},
        "description": "Time that the reply may take, where that is less than the server allows.",
    },
    "SessionId": {
        "name": "X-Session-ID",
        "schema": {"type": "string", "minLength": 1, "maxLength": MAX_SESSION_ID},
        "description": "For balancers that hash it: the session, the same as the body's where it "
        "names one.",
    },
}
_HEADERS: dict[str, Json] = {
    "RequestId": {
        "schema": {"type": "string"},
        "description": "The request's id, sent or new.",
    },
    "IdempotencyReplayed": {
        "schema": {"type": "string", "const": "true"},
        "description": "The answer of an earlier request with this `Idempotency-Key`.",
    },
    "RetryAfter": {
        "schema": {"type": "integer", "minimum": 1},
        "description": "Seconds after which to try again.",
    },
}
_HEADER_NAMES = {
    "RequestId": "X-Request-ID",
    "IdempotencyReplayed": "Idempotency-Replayed",
    "RetryAfter": "Retry-After",
}


@cache
def document() -> Json:
    """The document, made once: it is the same whatever the settings. Not to be changed."""
    paths: dict[str, Json] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Persona Chat Engine",
            "version": version("persona-chat-engine"),
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This server"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "parameters": {
                name: {"in": "header", "required": False, **parameter}
                for name, parameter in _PARAMETERS.items()
            },
            "headers": _HEADERS,
            "securitySchemes": {
                name: {"type": "http", "scheme": "bearer", "description": text}
                for name, text in _SECURITY.items()
            },
        },
    }


def _operation(operation: Operation) -> Json:
    made: Json = {
        "operationId": operation.name,
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": [
            {"$ref": f"#/components/parameters/{name}"}
            for name in ("RequestId", *operation.headers)
        ],
        "responses": {"200": _answer(operation), **_problems(operation)},
        # an empty requirement: there are servers that need no key
        "security": [*({key: []} for key in operation.keys), {}] if operation.keys else [],
    }
    if operation.description:
        made["description"] = operation.description
    if operation.body is not None:
        content = {"schema": _schema(operation.body), "examples": REQUESTS[operation.name]}
        made["requestBody"] = {"required": True, "content": {"application/json": content}}
    return made


def _answer(operation: Operation) -> Json:
    headers = ["RequestId"]
    if "IdempotencyKey" in operation.headers:
        headers.append("IdempotencyReplayed")
    content: dict[str, Json] = {}
    for media_type, schema in operation.answers.items():
        if media_type == EVENT_STREAM:
            content[media_type] = _event_stream()
        elif schema is None:
            content[media_type] = {"schema": {"type": "string"}}
        else:
            content[media_type] = {"schema": _schema(schema)}
            if operation.name in ANSWERS:
                content[media_type]["examples"] = ANSWERS[operation.name]
    return {"description": "What was asked for.", "headers": _headers(headers), "content": content}


def _event_stream() -> Json:
    """Before OpenAPI 3.2 a stream's schema is, by custom, that of each event."""
    return {"schema": {"$ref": _REF.format(name="ServerSentEvent")}, "examples": EVENTS}


def _problems(operation: Operation) -> dict[str, Json]:
    """A response for each status, with the codes that it may have."""
    by_status: dict[int, list[tuple[Kind, str]]] = defaultdict(list)
    for error in operation.problems:
        by_status[TABLE[error].status].append((TABLE[error], error.__doc__ or ""))
    by_status[INTERNAL.status].append((INTERNAL, "A fault of the server; never of the request."))
    return {str(status): _problem(status, told) for status, told in sorted(by_status.items())}


def _problem(status: int, told: list[tuple[Kind, str]]) -> Json:
    headers = ["RequestId", "RetryAfter"] if status in _RETRIED else ["RequestId"]
    codes = {"type": "object", "properties": {"code": {"enum": [kind.code for kind, _ in told]}}}
    examples = {
        kind.code: {
            "value": {
                "title": kind.title,
                "status": kind.status,
                "code": kind.code,
                "detail": text.splitlines()[0],
            }
        }
        for kind, text in told
    }
    return {
        "description": "\n".join(f"* `{kind.code}`: {kind.title}." for kind, _ in told),
        "headers": _headers(headers),
        "content": {
            PROBLEM_JSON: {"schema": {"allOf": [_schema(Problem), codes]}, "examples": examples}
        },
    }


def _headers(names: list[str]) -> dict[str, Json]:
    return {_HEADER_NAMES[name]: {"$ref": f"#/components/headers/{name}"} for name in names}


def _asked() -> list[Any]:
    return [operation.body for operation in OPERATIONS if operation.body is not None]


def _answered() -> list[Any]:
    answers = [schema for operation in OPERATIONS for schema in operation.answers.values()]
    return [schema for schema in answers if schema is not None] + list(_EVENT_TYPES.values())


def _schema(kind: Any) -> Json:
    (schema,), _ = msgspec.json.schema_components([kind], ref_template=_REF)
    return schema


def _schemas() -> dict[str, Json]:
    """Every struct that goes over the wire, its fields described."""
    _, asked = msgspec.json.schema_components(_asked(), ref_template=_REF)
    _, made = msgspec.json.schema_components([*_asked(), *_answered()], ref_template=_REF)
    for name, schema in made.items():
        for field, text in field_docs(_STRUCTS[name]).items():
            schema["properties"][field]["description"] = text
        if name not in asked and not _STRUCTS[name].__struct_config__.omit_defaults:
            schema["required"] = _always_told(_STRUCTS[name])
    codes = [kind.code for kind in (*TABLE.values(), INTERNAL, NOT_FOUND, METHOD_NOT_ALLOWED)]
    made["Problem"]["properties"]["code"]["enum"] = codes
    meta = made["AnswerMeta"]["properties"]
    meta["reason"]["anyOf"][0]["enum"] = list(Reason)
    meta["history"]["enum"] = list(get_args(History))
    meta["line_refused"]["items"]["enum"] = list(REASONS)
    made["PredictRequest"]["properties"]["prompt"]["pattern"] = Special.STATE
    made["AskRequest"]["anyOf"] = [_given("text"), _given("user_input")]
    return {**made, "ServerSentEvent": _server_sent_event()}


def _always_told(struct: type[msgspec.Struct]) -> list[str]:
    """The fields that every answer of this kind has, by default or not."""
    fields = msgspec.structs.fields(struct)
    return [field.encode_name for field in fields if field.default is not msgspec.UNSET]


def _given(name: str) -> Json:
    return {"required": [name], "properties": {name: {"type": "string"}}}


def _server_sent_event() -> Json:
    return {
        "title": "ServerSentEvent",
        "description": "A stream is one `state`, which is final, then `token`s, then one `done`. "
        "`error` comes instead of what is left where the server fails after it began to answer. "
        "Comment lines (`: keep-alive`) come where nothing else does for a while.",
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "event": {"const": name},
                    "data": {
                        "type": "string",
                        "contentMediaType": "application/json",
                        "contentSchema": _schema(kind),
                    },
                },
                "required": ["event", "data"],
            }
            for name, kind in _EVENT_TYPES.items()
        ],
    }
