"""Where a server may listen, found out before anything is loaded; and where it then does."""

import errno
import socket

import uvicorn

from server.settings import SettingsError

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (compared with, not bound to)


def check_port(host: str, port: int) -> None:
    """Raises SettingsError where a server cannot listen; what only uvicorn can tell, it tells."""
    flags, kind = socket.AI_PASSIVE, socket.SOCK_STREAM
    try:
        places = socket.getaddrinfo(host or None, port, type=kind, flags=flags)
    except (OSError, UnicodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise SettingsError(f"PERSONA_HOST={host!r} is no address here: {what}") from error
    for family, _, _, _, address in places:
        try:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SettingsError(f"port {port} is in use; set PERSONA_PORT") from error


def address_of(server: uvicorn.Server) -> str:
    """The address of a started server, to be opened on this machine."""
    host, port = server.servers[0].sockets[0].getsockname()[:2]
    if host in _EVERYWHERE:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
