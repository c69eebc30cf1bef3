"""Real engines behind the deployed nginx: sessions stick, none is lost, streams flow.

`scripts/test-nginx` runs this, installing nginx if it is missing.
"""

import signal
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from random import Random

import httpx
import pytest

from bench.server_process import free_port, stop_process
from tests.conftest import build_default
from tests.deploy.cluster import (
    AUTHORIZATION,
    LINES,
    NGINX,
    PATIENCE_S,
    Cluster,
    Engine,
    Player,
    Turn,
    run_nginx,
    wait_until,
)

pytestmark = [
    pytest.mark.gemma,
    pytest.mark.skipif(NGINX is None, reason="no nginx here; scripts/test-nginx installs it"),
]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two engines on the default bundle behind nginx."""
    folder = tmp_path_factory.mktemp("cluster")
    bundle = build_default().parent
    first, second = (Engine(free_port(), bundle, folder / f"engine-{n}.log") for n in (1, 2))
    try:
        with run_nginx(folder, (first, second)) as balancer:
            yield Cluster((first, second), balancer)
    finally:
        for engine in (first, second):
            if engine.process is not None:
                stop_process(engine.process)


@pytest.fixture
def cluster(started: Cluster) -> Cluster:
    """Both engines answering, whatever the test before did to them."""
    started.all_up()
    return started


def players_of(cluster: Cluster, engine: Engine, count: int) -> list[Player]:
    """New players whose sessions are at home with `engine`."""
    sessions = cluster.sessions_of(engine, count)
    return [Player(cluster.balancer.url, cluster.balancer, session) for session in sessions]


def two_of_each(cluster: Cluster) -> dict[int, list[Player]]:
    """Two new players an engine, by its port."""
    return {engine.port: players_of(cluster, engine, 2) for engine in cluster.engines}


def play(players: list[Player], num_turns: int) -> list[Turn]:
    """So many turns of each player, shuffled, or engines asked by turns would pass for sticky."""
    order = players * num_turns
    Random(7).shuffle(order)
    turns = [player.say() for player in order]
    assert all(turn.is_answered for turn in turns), turns
    return turns


def test_a_session_stays_with_one_engine_which_goes_on_with_its_transcript(
    cluster: Cluster,
) -> None:
    players = two_of_each(cluster)
    before = {engine.port: engine.metric("persona_turns_total") for engine in cluster.engines}
    play([player for both in players.values() for player in both], 3)
    for engine in cluster.engines:
        assert engine.metric("persona_turns_total") - before[engine.port] == 2 * 3
        for player in players[engine.port]:
            assert [turn.asked for turn in player.turns] == [[engine.port]] * 3
            assert [turn.history for turn in player.turns] == ["fresh", "continued", "continued"]


def test_a_caller_who_names_no_session_stays_with_one_engine(cluster: Cluster) -> None:
    assert len({cluster.home(session="") for _ in range(6)}) == 1


def test_two_engines_save_as_many_tokens_as_one(cluster: Cluster) -> None:
    def tokens_of(players: list[Player]) -> tuple[float, float]:
        before = [(e.tokens("cached"), e.tokens("prompt")) for e in cluster.engines]
        play(players, 4)
        after = [(e.tokens("cached"), e.tokens("prompt")) for e in cluster.engines]
        num_cached = sum(now[0] - then[0] for now, then in zip(after, before, strict=True))
        return num_cached, sum(now[1] - then[1] for now, then in zip(after, before, strict=True))

    engine, balancer = cluster.engines[0], cluster.balancer
    for each in cluster.engines:  # Sora's description is read once an engine
        play([Player(each.url, balancer, f"warm-{uuid.uuid4().hex}")], 1)
    alone = [Player(engine.url, balancer, f"alone-{uuid.uuid4().hex}") for _ in range(4)]
    cached, prompt = tokens_of(alone)
    balanced = [player for players in two_of_each(cluster).values() for player in players]
    cached_by_two, prompt_by_two = tokens_of(balanced)
    ratio, ratio_of_two = (
        cached / (cached + prompt),
        cached_by_two / (cached_by_two + prompt_by_two),
    )
    print(f"cache hit ratio: one engine {ratio:.3f}, two behind nginx {ratio_of_two:.3f}")
    assert ratio > 0.7
    assert ratio_of_two == pytest.approx(ratio, abs=0.02)


@pytest.mark.parametrize("signal_", [signal.SIGKILL, signal.SIGTERM])
def test_an_engine_that_ends_loses_no_turn_and_has_its_sessions_back_after_its_return(
    cluster: Cluster, signal_: signal.Signals
) -> None:
    victim = cluster.engines[0]
    survivor = cluster.other(victim)
    players = two_of_each(cluster)
    moved, unmoved = players[victim.port], players[survivor.port]
    has_seen_enough = threading.Event()

    def talk(player: Player) -> None:
        while not has_seen_enough.is_set():
            player.say()

    with ThreadPoolExecutor(4) as pool:
        talking = [pool.submit(talk, player) for player in moved + unmoved]
        try:
            wait_until(lambda: all(player.turns for player in moved))
            wait_until(lambda: victim.metric("persona_requests_running") > 0)
            victim.end(signal_)
            wait_for_turns(moved + unmoved, 3)
        finally:
            has_seen_enough.set()
    for ended in talking:
        ended.result()

    for player in moved + unmoved:
        assert all(turn.is_answered for turn in player.turns), player.turns
        assert all(turn.answer["text"] for turn in player.turns)
    for player in unmoved:
        assert all(turn.asked == [survivor.port] for turn in player.turns)
    assert any(turn.asked == [victim.port, survivor.port] for p in moved for turn in p.turns)
    for player in moved:
        answered_by = [turn.asked[-1] for turn in player.turns]
        first = answered_by.index(survivor.port)
        assert set(answered_by[first:]) == {survivor.port}
        assert player.turns[first].history == "rebuilt"
        assert player.turns[first + 1].history == "continued"

    victim.start()
    victim.wait_until_ready()
    for player in moved:
        assert first_turn_at(victim, player).history == "rebuilt"
        assert player.say().history == "continued"
        assert player.turns[-1].asked == [victim.port]
        assert all(turn.is_answered for turn in player.turns)


def wait_for_turns(players: list[Player], count: int) -> None:
    """Wait until players who talk in other threads have had so many more turns each."""
    goals = [len(player.turns) + count for player in players]
    wait_until(lambda: all(len(p.turns) >= goal for p, goal in zip(players, goals, strict=True)))


def first_turn_at(engine: Engine, player: Player) -> Turn:
    """The turn with which a player is back at `engine`."""
    wait_until(lambda: player.say().asked == [engine.port])
    return player.turns[-1]


def killed_with_an_unread_turn(cluster: Cluster, victim: Engine, **headers: str) -> Turn:
    """A turn that was sent whole to `victim`, which ends before it reads it."""
    (player,) = players_of(cluster, victim, 1)
    with ThreadPoolExecutor(1) as pool:
        victim.send(signal.SIGSTOP)
        said: Future[Turn] = pool.submit(player.say, **headers)
        try:
            wait_until(victim.has_unread_request)
        finally:
            victim.end(signal.SIGKILL)
        return said.result()


def test_a_turn_that_was_sent_is_done_by_another_engine_if_it_has_a_key(cluster: Cluster) -> None:
    victim, other = cluster.engines
    turn = killed_with_an_unread_turn(cluster, victim)
    assert turn.is_answered
    assert turn.asked == [victim.port, other.port]


def test_a_turn_without_a_key_is_never_sent_twice(cluster: Cluster) -> None:
    victim, other = cluster.engines
    before = other.metric("persona_turns_total")
    turn = killed_with_an_unread_turn(cluster, victim, **{"Idempotency-Key": ""})
    assert turn.status == httpx.codes.BAD_GATEWAY
    assert turn.answer["code"] == "no_engine"
    assert turn.asked == [victim.port]
    assert other.metric("persona_turns_total") == before


def test_a_turn_without_a_key_is_answered_where_its_engine_refuses_the_connection(
    cluster: Cluster,
) -> None:
    victim, other = cluster.engines
    (player,) = players_of(cluster, victim, 1)
    victim.end(signal.SIGKILL)
    turn = player.say(**{"Idempotency-Key": ""})
    assert turn.is_answered
    assert turn.asked == [victim.port, other.port]


@pytest.mark.parametrize("key", ["a-key", ""])
def test_a_turn_that_no_engine_is_there_for_is_to_be_sent_again(cluster: Cluster, key: str) -> None:
    (player,) = players_of(cluster, cluster.engines[0], 1)
    for engine in cluster.engines:
        engine.end(signal.SIGKILL)
    request = player.request(**{"Idempotency-Key": key})
    with httpx.Client(timeout=PATIENCE_S) as client:
        response = client.send(request)
    assert response.status_code == httpx.codes.BAD_GATEWAY
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["retry-after"] == "1"
    assert response.json()["code"] == "no_engine"


def test_a_turn_that_is_sent_again_is_not_done_again(cluster: Cluster) -> None:
    engine = cluster.engines[0]
    (player,) = players_of(cluster, engine, 1)
    before = engine.metric("persona_turns_total")
    key = {"Idempotency-Key": uuid.uuid4().hex}
    turn = player.say(**key)
    again = replace(player, dialogue=[], turns=[]).say(**key)
    assert again.answer == turn.answer
    assert engine.metric("persona_turns_total") == before + 1


def test_a_balancer_is_ready_while_one_engine_drains(cluster: Cluster) -> None:
    victim, other = cluster.engines
    (session,) = cluster.sessions_of(victim, 1)
    id_ = uuid.uuid4().hex
    headers = {"X-Session-ID": session, "X-Request-ID": id_}
    victim.send(signal.SIGTERM)
    wait_until(victim.is_draining_or_gone)
    response = httpx.get(f"{cluster.balancer.url}/readyz", headers=headers, timeout=PATIENCE_S)
    victim.end(signal.SIGTERM)
    assert response.json()["status"] == "ready"
    assert cluster.balancer.asked(id_) == [victim.port, other.port]


def test_a_stream_comes_as_it_is_made_and_once_begun_is_its_clients_to_send_again(
    cluster: Cluster,
) -> None:
    victim, other = cluster.engines
    for number in range(len(LINES)):
        cluster.all_up()
        (player,) = players_of(cluster, victim, 1)
        request = replace(player, lines=LINES[number:]).request(Accept="text/event-stream")
        before = other.metric("persona_turns_total")
        if is_cut_after_its_first_sentence(request, victim):
            break
    else:
        raise AssertionError("each time the first sentence came together with the end")
    assert cluster.balancer.asked(request.headers["X-Request-ID"]) == [victim.port]
    assert other.metric("persona_turns_total") == before

    request.headers["X-Request-ID"] = uuid.uuid4().hex
    with httpx.Client(timeout=PATIENCE_S) as client:
        events = client.send(request).text
    assert events.startswith("event: state\n")
    assert "event: done\n" in events
    assert cluster.balancer.asked(request.headers["X-Request-ID"])[-1] == other.port
    assert other.metric("persona_turns_total") == before + 1


def is_cut_after_its_first_sentence(request: httpx.Request, engine: Engine) -> bool:
    """Whether a stream broke off when `engine` was killed at its first sentence."""
    with httpx.Client(timeout=PATIENCE_S) as client:
        response = client.send(request, stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "content-encoding" not in response.headers
        lines = response.iter_lines()
        assert next(lines) == "event: state"
        assert "event: token" in lines
        engine.end(signal.SIGKILL)
        try:
            assert "event: done" in lines, "a stream that broke off must not look whole"
        except httpx.RemoteProtocolError:
            return True
        return False


@pytest.mark.parametrize("route", ["/admin/reload", "/metrics"])
def test_what_belongs_to_one_engine_is_not_reached_through_the_balancer(
    started: Cluster, route: str
) -> None:
    response = httpx.post(started.balancer.url + route, headers=AUTHORIZATION)
    assert response.status_code == httpx.codes.NOT_FOUND
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["code"] == "not_found"
