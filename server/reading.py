"""Reads a request: its body, and what its headers say beside it."""

from typing import TypeVar

import msgspec
from starlette.requests import Request

from server.errors import BodyTooLarge, InvalidField, MalformedBody
from server.field_errors import located
from server.field_names import ignored_fields
from server.schemas import MAX_ID, MAX_SESSION_ID, AskRequest

T = TypeVar("T", bound=msgspec.Struct)

_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises at a body that is no JSON, or is nested too deep."""

SESSION_ID = "X-Session-ID"
DEADLINE_MS = "X-Deadline-Ms"


async def read_body(request: Request) -> bytes:
    """The body, in memory. Raises BodyTooLarge."""
    limit = request.state.service.settings.max_body_bytes
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            raise BodyTooLarge(f"the body is over {limit} bytes; send a shorter history")
    return bytes(body)


def decode(body: bytes, schema: type[T]) -> T:
    """The body as `schema`. Raises MalformedBody or InvalidField."""
    try:
        return msgspec.json.decode(body, type=schema)
    except msgspec.ValidationError as error:
        raise InvalidField(*located(error, body, schema)) from error
    except _NO_JSON as error:
        raise MalformedBody(str(error)) from error


def notices_of(body: bytes) -> list[str]:
    """What of a decoded AskRequest's body has no effect. Raises MalformedBody."""
    try:
        return ignored_fields(body)
    except _NO_JSON as error:
        raise MalformedBody(str(error)) from error


def with_headers(asked: AskRequest, request: Request) -> AskRequest:
    """The request with what its headers say of session and deadline. Raises InvalidField."""
    if (session_id := request.headers.get(SESSION_ID)) is not None:
        check_id(session_id, SESSION_ID, MAX_SESSION_ID)
        if asked.session_id not in (None, session_id):
            what = f"is {asked.session_id!r}, but {SESSION_ID} is {session_id!r}; send the same"
            raise InvalidField("$.session_id", what)
        asked = msgspec.structs.replace(asked, session_id=session_id)
    if (given := request.headers.get(DEADLINE_MS)) is not None:
        if not (given.isascii() and given.isdigit() and 0 < len(given) < 10 and int(given)):
            raise InvalidField(DEADLINE_MS, f"is {given!r}; send milliseconds as a whole number")
        deadline_ms = min(int(given), asked.deadline_ms or int(given))
        asked = msgspec.structs.replace(asked, deadline_ms=deadline_ms)
    return asked


def check_id(value: str, name: str, longest: int = MAX_ID) -> None:
    """A header that names something. Raises InvalidField."""
    if not 0 < len(value) <= longest:
        raise InvalidField(name, f"has {len(value)} characters; send 1 to {longest}")
