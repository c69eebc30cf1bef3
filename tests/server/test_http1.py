"""What comes in over a connection, byte by byte: upgrades that are not taken, headers, bodies."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse, parse_headers
from urllib.parse import urlsplit

import httpx
import pytest

from server.service import Service
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    HookedHeads,
    altered,
    ask_body,
    client_of,
    is_idle,
    wait_until,
)
from tests.server.watched_server import num_resident_bytes

BODY = json.dumps(ask_body()).encode()
LENGTH = f"Content-Length: {len(BODY)}"
UPGRADE = (
    "Connection: Upgrade, HTTP2-Settings",
    "Upgrade: h2c",
    "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA",
)
MEBIBYTE = 1 << 20


def head(line: str, *headers: str) -> bytes:
    return "\r\n".join([line, "Host: localhost", *headers, "", ""]).encode()


@contextmanager
def connected(client: httpx.Client) -> Iterator[socket.socket]:
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port), PATIENCE_S) as connection:
        yield connection


def answer_on(connection: socket.socket) -> tuple[int, bytes]:
    """Status and body of the next response, and nothing beyond it."""
    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.read()


def line_of(answer: tuple[int, bytes]) -> str:
    status, body = answer
    assert status == 200, body
    text: str = json.loads(body)["text"]
    return text


@pytest.mark.parametrize("is_split", [False, True], ids=["one packet", "two packets"])
def test_an_offer_of_http2_is_not_taken_and_the_turn_is_answered(
    client: httpx.Client, caplog: pytest.LogCaptureFixture, is_split: bool
) -> None:
    sent = head("POST /ask HTTP/1.1", LENGTH, *UPGRADE)
    with caplog.at_level(logging.WARNING), connected(client) as connection:
        for _ in range(2):  # the connection goes on
            for part in (sent, BODY) if is_split else (sent + BODY,):
                connection.sendall(part)
            assert line_of(answer_on(connection))
    assert not caplog.records


def test_a_websocket_is_not_taken_either(client: httpx.Client) -> None:
    offer = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    with connected(client) as connection:
        connection.sendall(head("GET /ask HTTP/1.1", *offer))
        assert answer_on(connection)[0] == 405


def test_who_offers_http2_and_leaves_is_missed(tiny_service: Service) -> None:
    gate = Gate()
    service = altered(tiny_service, HookedHeads(tiny_service.loaded.heads, gate.wait))
    with client_of(service) as client:
        with connected(client) as connection:
            connection.sendall(head("POST /ask HTTP/1.1", LENGTH, *UPGRADE) + BODY)
            assert gate.reached.wait(PATIENCE_S)
            (asked,) = service.engine._scheduler.running
        try:
            wait_until(lambda: asked.is_cancelled)
        finally:
            gate.opened.set()
        wait_until(lambda: is_idle(service.engine))


def test_what_is_no_http_after_an_answer_has_begun_is_hung_up_on(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with connected(client) as connection:
        connection.sendall(
            head("POST /nowhere HTTP/1.1", "Transfer-Encoding: chunked") + b"1\r\na\r\n"
        )
        assert answer_on(connection)[0] == 404
        connection.sendall(b"zz\r\n")
        assert connection.recv(1) == b""
    assert client.get("/healthz").status_code == 200
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("start", [b"X-Large: ", b""], ids=["a value", "a name"])
def test_headers_without_end_are_refused_before_they_fill_the_memory(
    client: httpx.Client, start: bytes
) -> None:
    before = num_resident_bytes()
    with connected(client) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + start)
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"a" * 64 * MEBIBYTE)
    assert num_resident_bytes() - before < 32 * MEBIBYTE
    assert client.get("/healthz").status_code == 200


def test_many_large_headers_are_refused(client: httpx.Client) -> None:
    headers = {f"X-{number}": "a" * 4_096 for number in range(512)}
    with suppress(httpx.TransportError):  # where it has closed while we still wrote
        assert client.get("/healthz", headers=headers).status_code in (400, 431)


def test_headers_of_some_kilobytes_are_read(client: httpx.Client) -> None:
    assert client.get("/healthz", headers={"X-Large": "a" * 12_000}).status_code == 200


def test_a_body_may_come_in_chunks(client: httpx.Client) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"
    with connected(client) as connection:
        connection.sendall(head("POST /ask HTTP/1.1", "Transfer-Encoding: chunked") + chunks)
        assert line_of(answer_on(connection))


def test_requests_that_are_sent_at_once_are_answered_in_order(client: httpx.Client) -> None:
    with connected(client) as connection:
        turn = head("POST /ask HTTP/1.1", LENGTH) + BODY
        connection.sendall(head("GET /healthz HTTP/1.1") + turn)
        with connection.makefile("rb") as stream:
            for told in (b'"ok"', b'"text"'):
                assert stream.readline().split()[1] == b"200"
                assert told in stream.read(int(parse_headers(stream)["Content-Length"]))


def test_an_old_client_is_answered_and_hung_up_on(client: httpx.Client) -> None:
    streamed = json.dumps(ask_body(stream=True)).encode()
    for body, ending in ((BODY, b"}"), (streamed, b"\n\n")):
        with connected(client) as connection:
            connection.sendall(head("POST /ask HTTP/1.0", f"Content-Length: {len(body)}") + body)
            with connection.makefile("rb") as stream:
                answer = stream.read()  # to its end
        assert answer.split()[1] == b"200"
        assert answer.endswith(ending)
