import errno
import socket
from typing import Any

import pytest

from server.ports import check_port
from server.settings import SettingsError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", ""])
def test_a_port_that_another_listens_on_is_told(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SettingsError, match=f"port {port} is in use; set PERSONA_PORT"):
            check_port(host, port)
    check_port(host, port)


def test_any_port_is_free() -> None:
    check_port("127.0.0.1", 0)


def test_a_host_that_has_no_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(SettingsError, match=r"PERSONA_HOST='sea' .* Name or service not known"):
        check_port("sea", 8_000)


def test_a_host_that_is_no_name_at_all_is_told() -> None:
    with pytest.raises(SettingsError, match=r"PERSONA_HOST='a\.\.b' is no address here"):
        check_port("a..b", 8_000)


def test_a_kind_of_address_that_the_machine_lacks_is_left_to_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    check_port("127.0.0.1", 0)
