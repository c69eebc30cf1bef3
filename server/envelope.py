"""What every response carries, whatever the route: a request id, security headers, a log line."""

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.logs import request_id

REQUEST_ID = "X-Request-ID"

_USABLE = re.compile(r"[\w.:/+=-]{1,128}", re.ASCII)
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
_QUIET = {"/healthz", "/readyz", "/metrics"}
"""Asked every few seconds by machines: told at the level `debug`."""

logger = logging.getLogger("server.access")


class Envelope:
    """ASGI middleware; a request id that cannot be used is replaced by one of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        id_ = given if _USABLE.fullmatch(given) else uuid.uuid4().hex
        request_id.set(id_)
        start, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = id_
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
            if logger.isEnabledFor(level):
                fields = {"status": status, "ms": round((time.perf_counter() - start) * 1e3, 1)}
                path = scope["raw_path"].decode("ascii", "replace")  # as sent: on one line
                line = f"{scope['method']} {path}"
                logger.log(level, line, extra={"fields": fields | {"request_id": id_}})
