"""`/metrics`: counts of what was answered, as Prometheus reads them."""

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.service import Service
from server.sessions import Sessions
from tests.server.serving import altered, ask_body, client_of

DASHBOARD = Path(__file__).parents[2] / "deploy" / "grafana" / "persona.json"


@pytest.fixture
def client(tiny_service: Service) -> Iterator[httpx.Client]:
    with client_of(altered(tiny_service, sessions=Sessions())) as client:
        yield client


def read(client: httpx.Client) -> dict[str, float]:
    """Every sample, by name and labels."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): float(
            sample.value
        )
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def risen(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {
        name: value - before.get(name, 0)
        for name, value in after.items()
        if value != before.get(name, 0) and not name.startswith("process_")
    }


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_turn_is_counted_once_with_its_tokens_and_times(
    client: httpx.Client, is_streamed: bool
) -> None:
    body = ask_body("where is the lamp", stream=is_streamed)
    client.post("/ask", json=ask_body("where is the lamp", player_id="someone else"))
    before = read(client)
    assert client.post("/ask", json=body).status_code == 200
    rose = risen(before, read(client))
    turns = {name: value for name, value in rose.items() if name.startswith("persona_turns_total")}
    assert list(turns.values()) == [1]
    assert "history=fresh path=main" in next(iter(turns))
    assert rose["persona_tokens_total kind=cached"] > 0, "another player asked the same"
    assert rose["persona_tokens_total kind=prompt"] > 0
    assert rose["persona_time_to_state_seconds_count"] == 1
    assert rose["persona_turn_seconds_sum"] >= rose["persona_time_to_state_seconds_sum"] > 0


def test_a_refused_request_is_counted_by_its_code(client: httpx.Client) -> None:
    before = read(client)
    client.post("/ask", content=b"{")
    client.post("/ask", json=ask_body(npc_id="nobody"))
    client.get("/nowhere")
    rose = risen(before, read(client))
    assert {name: n for name, n in rose.items() if name.startswith("persona_errors")} == {
        "persona_errors_total code=malformed_json": 1,
        "persona_errors_total code=unknown_npc": 1,
        "persona_errors_total code=not_found": 1,
    }


def test_the_engine_tells_what_it_holds(client: httpx.Client, tiny_service: Service) -> None:
    client.post("/ask", json=ask_body())
    found, stats = read(client), tiny_service.engine.stats
    assert found["persona_residents"] == stats.num_residents > 0
    assert found["persona_kv_cells_free"] == stats.num_free_cells == 4_096
    assert 0 < found["persona_kv_cells_resident"] < 4_096
    assert found["persona_requests_running"] == found["persona_requests_waiting"] == 0
    assert found["persona_preempted_total"] == 0
    assert found["process_resident_memory_bytes"] > 10e6


def test_the_dashboard_asks_only_for_what_is_told(client: httpx.Client) -> None:
    told = client.get("/metrics").text
    asked = set(re.findall(r"\b(?:persona|process)_\w+", DASHBOARD.read_text()))
    assert len(asked) > 15
    assert {name for name in asked if name not in told} == set()
