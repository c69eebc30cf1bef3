"""Which web pages may call: those of `PERSONA_CORS_ORIGINS`, and our own.

A browser lets any page send a POST to this machine, and a name that points here makes the page one
of ours (DNS rebinding). An API key keeps both out; a server without keys goes by `Host` and
`Origin`, which a page cannot choose.
"""

import re
from collections.abc import Collection, Mapping
from urllib.parse import urlsplit

from server.errors import Forbidden
from server.keys import is_loopback
from server.settings import Settings, SettingsError

ANY = "*"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._~:\[\]-]+")


def read_origins(settings: Settings) -> tuple[str, ...]:
    """Origins of the pages that may call, or `*`. Raises SettingsError."""
    given = [origin.strip().lower() for origin in settings.cors_origins.split(",")]
    origins = tuple(origin for origin in given if origin)
    for origin in origins:
        if origin != ANY and not _ORIGIN.fullmatch(origin):
            raise SettingsError(
                f"PERSONA_CORS_ORIGINS: {origin!r} is no origin; write scheme and host, and a port "
                "if the page has one, as in https://game.example:8443, without a path"
            )
    return origins


def check_origin(headers: Mapping[str, str], origins: Collection[str]) -> None:
    """Let in who is no web page, or one of this host or of `origins`. Raises Forbidden."""
    origin = headers.get("origin")
    if origin is None or origin in origins or ANY in origins:
        return
    if headers.get("sec-fetch-site") == "same-origin":  # so the browser, behind what rewrites Host
        return
    host = _host(f"//{headers.get('host', '')}")
    if host is None or _host(origin) != host:
        raise Forbidden(
            f"the server has no API keys, so a web page of {origin!r} may not call it; "
            "name the origin in PERSONA_CORS_ORIGINS"
        )


def check_host(headers: Mapping[str, str]) -> None:
    """Let in who calls this machine by a name of its own. Raises Forbidden."""
    given = headers.get("host", "")
    host = (_host(f"//{given}") or "").removesuffix(".")
    if given and not is_loopback(host) and not host.endswith(".localhost"):  # RFC 6761
        raise Forbidden(
            f"the server has no API keys, so it may not be called {given!r}; call it localhost, "
            "set PERSONA_API_KEYS, or PERSONA_AUTH=off where something else keeps watch"
        )


def _host(url: str) -> str | None:
    """The host that a URL names, without a port."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None
