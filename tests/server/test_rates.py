import pytest

from server.errors import RateLimited
from server.rates import MAX_CALLERS, RateLimit
from server.service import Service
from tests.server.serving import altered, ask_body, check_problem, client_of


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    limit = RateLimit("player", 6, clock)
    for _ in range(6):
        limit.take("p")
    with pytest.raises(RateLimited, match="this player has asked more than 6 times a minute"):
        limit.take("p")
    clock.now += 9.9
    with pytest.raises(RateLimited) as caught:
        limit.take("p")
    assert caught.value.retry_after_s == 1
    clock.now += 0.1
    limit.take("p")
    with pytest.raises(RateLimited):
        limit.take("p")
    clock.now += 3_600
    for _ in range(6):
        limit.take("p")


def test_callers_do_not_share_a_limit() -> None:
    limit = RateLimit("player", 1, Clock())
    limit.take("p")
    limit.take("q")
    with pytest.raises(RateLimited):
        limit.take("p")


def test_callers_longest_out_of_use_are_forgotten() -> None:
    limit = RateLimit("player", 1, Clock())
    for number in range(MAX_CALLERS + 1):
        limit.take(f"p{number}")
    limit.take("p0")
    with pytest.raises(RateLimited):
        limit.take(f"p{MAX_CALLERS}")


def test_a_turn_too_many_is_refused_with_the_time_to_wait(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.player_rate = RateLimit("player", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body()).status_code == 200
        refused = client.post("/ask", json=ask_body())
        check_problem(refused, 429, "rate_limited")
        assert 0 < int(refused.headers["retry-after"]) <= 60
        assert client.post("/ask", json=ask_body(player_id="p2")).status_code == 200
        assert client.post("/ask", json={}).status_code == 422, "what is wrong does not count"


def test_a_key_has_a_limit_for_all_of_its_players(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.key_rate = RateLimit("API key", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body()).status_code == 200
        refused = client.post("/ask", json=ask_body(player_id="p2"))
    assert "this API key has asked" in check_problem(refused, 429, "rate_limited")["detail"]


def test_a_check_takes_nothing() -> None:
    limit = RateLimit("player", 1, Clock())
    for _ in range(3):
        limit.check("p")
    limit.take("p")
    with pytest.raises(RateLimited):
        limit.check("p")


def test_a_player_over_the_limit_takes_nothing_from_the_others_of_the_game(
    tiny_service: Service,
) -> None:
    service = altered(tiny_service)
    service.key_rate, service.player_rate = RateLimit("API key", 2), RateLimit("player", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body(player_id="spammer")).status_code == 200
        for _ in range(5):
            refused = client.post("/ask", json=ask_body(player_id="spammer"))
            assert "this player" in check_problem(refused, 429, "rate_limited")["detail"]
        assert client.post("/ask", json=ask_body(player_id="another")).status_code == 200


def test_a_game_over_the_limit_takes_nothing_from_its_players(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.key_rate, service.player_rate = RateLimit("API key", 1), RateLimit("player", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body()).status_code == 200
        refused = client.post("/ask", json=ask_body(player_id="p2"))
        assert "this API key" in check_problem(refused, 429, "rate_limited")["detail"]
        service.key_rate = None
        assert client.post("/ask", json=ask_body(player_id="p2")).status_code == 200


def test_a_turn_too_many_is_refused_before_it_is_read(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = altered(tiny_service)
    service.player_rate = RateLimit("player", 1)
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body()).status_code == 200
        for name in ("server.http.notices_of", "server.pipeline.read_turn"):
            monkeypatch.setattr(name, lambda *_: pytest.fail("it was read"))
        check_problem(client.post("/ask", json=ask_body()), 429, "rate_limited")


def test_raw_prompts_count_as_turns_of_their_key(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.key_rate = RateLimit("API key", 2)
    body = {"prompt": "<PLAYER>hello<STATE>", "gen_params": {"max_tokens": 2}}
    with client_of(service) as client:
        assert client.post("/predict_main", json={}).status_code == 422, "which does not count"
        assert client.post("/predict_main", json=body).status_code == 200
        assert client.post("/ask", json=ask_body()).status_code == 200
        refused = client.post("/predict_main", json=body)
    check_problem(refused, 429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
