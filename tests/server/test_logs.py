import json
import logging
from typing import Any

import pytest

from server.logs import JsonLines, TextLines, redacted, request_id
from server.service import Service
from server.settings import Settings
from tests.server.serving import altered, ask_body, client_of


def record(message: str, **others: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "a", "levelname": "INFO", "msg": message, **others})


def test_a_line_of_json_holds_message_fields_and_the_request() -> None:
    request_id.set("r1")
    line = JsonLines().format(record("turn", fields={"npc_id": "mina", "reason": None}))
    assert "\n" not in line
    found = json.loads(line)
    assert found.pop("time")
    assert found == {
        "level": "info",
        "logger": "a",
        "message": "turn",
        "request_id": "r1",
        "npc_id": "mina",
    }


def test_an_error_is_told_inside_its_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        line = JsonLines().format(record("it broke", exc_info=(type(error), error, None)))
    assert "\n" not in line
    assert json.loads(line)["error"].endswith("ValueError: two\nlines")


def test_a_line_of_text_ends_with_the_fields() -> None:
    line = TextLines("%(message)s").format(record("turn", fields={"ms": 3, "reason": None}))
    assert line == "turn ms=3"


@pytest.mark.parametrize(
    "text",
    [
        "mail me at a.b+c@game.example please",
        "내 번호는 010-1234-5678 이야",
        "call +82 10 1234 5678",
        "card 4111 1111 1111 1111",
        "see https://example.org/a?token=b",
        "my key is ghx0123456789abcdefghij",
    ],
)
def test_addresses_numbers_and_keys_are_hidden(text: str) -> None:
    assert "[hidden]" in redacted(text)
    assert not any(part in redacted(text) for part in ("@", "1234", "4111", "token", "ghx"))


@pytest.mark.parametrize("text", ["등불을 3번 켜줘", "I owe you 500 coins, at 12:30", "안녕"])
def test_what_players_say_of_the_game_stays(text: str) -> None:
    assert redacted(text) == text


def test_what_was_said_is_logged_only_where_the_settings_say_so(
    tiny_service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    body = ask_body("write to me@game.example")
    for log_text, shown in ((False, None), (True, "write to [hidden]")):
        service = altered(tiny_service)
        service.settings = Settings(log_text=log_text)
        caplog.clear()
        with caplog.at_level(logging.INFO, "server.turn"), client_of(service) as client:
            answer = client.post("/ask", json=body).json()
        (line,) = [found for found in caplog.records if found.name == "server.turn"]
        fields: dict[str, Any] = line.fields  # type: ignore[attr-defined]
        assert fields["turn_id"] == answer["meta"]["turn_id"]
        assert fields["total_ms"] > 0
        assert fields.get("player") == shown
        assert ("npc" in fields) is log_text
