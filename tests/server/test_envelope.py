import logging

import httpx
import pytest

from server.service import Service
from tests.server.serving import (
    altered,
    ask_body,
    check_problem,
    client_of,
    served,
    wait_until,
)


def test_a_request_id_is_given_back_or_made(client: httpx.Client) -> None:
    given = client.get("/healthz", headers={"X-Request-ID": "game-42:7"})
    assert given.headers["x-request-id"] == "game-42:7"
    made = [client.get("/nowhere").headers["x-request-id"] for _ in range(2)]
    assert len(set(made)) == 2
    assert all(len(id_) == 32 for id_ in made)


@pytest.mark.parametrize("id_", ["", "a b", "x" * 129, 'quo"te'])
def test_a_request_id_that_could_forge_a_log_line_is_replaced(
    client: httpx.Client, id_: str
) -> None:
    found = client.get("/healthz", headers={"X-Request-ID": id_}).headers["x-request-id"]
    assert len(found) == 32


def test_every_answer_has_security_headers_and_none_is_cached(client: httpx.Client) -> None:
    for response in (
        client.post("/ask", json=ask_body()),
        client.post("/ask", content=b"{"),
        client.get("/npcs"),
        client.get("/nowhere"),
    ):
        headers = response.headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"


def test_each_request_is_logged_in_one_line_without_what_was_said(
    client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> dict[str, logging.LogRecord]:
        found = [record for record in caplog.records if record.name == "server.access"]
        return {line.fields["request_id"]: line for line in found}  # type: ignore[attr-defined]

    with caplog.at_level(logging.INFO, "server"):
        client.post("/ask", json=ask_body("a secret word"), headers={"X-Request-ID": "r1"})
        client.get("/healthz", headers={"X-Request-ID": "r3"})
        client.get("/no%0Awhere?text=secret", headers={"X-Request-ID": "r2"})
        wait_until(lambda: "r2" in lines())  # it is written once the answer is sent
    assert "r3" not in lines(), "signs of life are asked for every few seconds"
    for id_, line, status in (("r1", "POST /ask", 200), ("r2", "GET /no%0Awhere", 404)):
        assert lines()[id_].getMessage() == line
        assert lines()[id_].fields["status"] == status  # type: ignore[attr-defined]
    assert "secret" not in str([vars(record) for record in caplog.records])


def test_a_fault_of_ours_is_answered_like_anything_else_and_logged_once(
    tiny_service: Service, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr("server.http.npc_entries", fail)
    asked = {"X-Request-ID": "r500", "Origin": "https://game.example"}

    def records(logger: str) -> list[logging.LogRecord]:
        return [record for record in caplog.records if record.name == logger]

    with caplog.at_level(logging.INFO), served(tiny_service, ["https://game.example"]) as url:
        response = httpx.get(f"{url}/npcs", headers=asked)
        wait_until(lambda: bool(records("server.access")))
        again = httpx.get(f"{url}/npcs").status_code
    assert "a secret" not in str(check_problem(response, 500, "internal"))
    headers = response.headers
    assert headers["x-request-id"] == "r500"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
    assert headers["access-control-allow-origin"] == "https://game.example"
    assert again == 500
    assert records("server.access")[0].fields["status"] == 500  # type: ignore[attr-defined]
    assert [record.name for record in caplog.records if record.exc_info] == ["server.http"] * 2


def test_long_answers_are_compressed_and_streams_are_not(client: httpx.Client) -> None:
    explained = client.post("/ask", json=ask_body(explain=True))
    assert explained.headers["content-encoding"] == "gzip"
    assert explained.json()["meta"]["explain"]
    assert "content-encoding" not in client.post("/ask", json=ask_body(stream=True)).headers


def test_pages_of_the_origins_that_the_settings_name_may_call(tiny_service: Service) -> None:
    with served(altered(tiny_service), ["https://game.example", "https://b.example"]) as url:

        def preflight(origin: str) -> httpx.Response:
            headers = {
                "Origin": origin,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,idempotency-key,x-session-id",
            }
            return httpx.options(f"{url}/ask", headers=headers)

        allowed = preflight("https://game.example")
        assert allowed.status_code == 200
        assert allowed.headers["access-control-allow-origin"] == "https://game.example"
        assert preflight("https://evil.example").status_code == 400
        answer = httpx.get(f"{url}/npcs", headers={"Origin": "https://b.example"})
        assert answer.headers["access-control-allow-origin"] == "https://b.example"
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    with client_of(tiny_service) as client:
        answer = client.get("/npcs", headers={"Origin": "https://game.example"})
        assert "access-control-allow-origin" not in answer.headers
