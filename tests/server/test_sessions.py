"""What a conversation comes to over its turns: continued, rebuilt, begun anew, forgotten."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import httpx
import pytest

from rag.world import World
from runtime.prompt import End, Special
from runtime.sequence import Done, State
from server.schemas import HistoryTurn
from server.service import Service
from server.sessions import MAX_TURNS, MAX_USERS, Conversation, SessionBusy, Sessions
from tests.server.serving import (
    PATIENCE_S,
    Gate,
    HookedHeads,
    Spy,
    altered,
    ask_body,
    check_problem,
    client_of,
    is_idle,
    served,
    wait_until,
)

SOUR = {"npc_config": {"initial_state": {"npc_mood": "sour"}}}
NEVER: dict[str, Any] = {"dialogue_history": None}
"""No word of the past."""


@pytest.fixture
def service(tiny_service: Service) -> Service:
    """With sessions of its own."""
    return altered(tiny_service, sessions=Sessions())


@pytest.fixture
def client(service: Service) -> Iterator[httpx.Client]:
    with client_of(service) as client:
        yield client


def ask(client: httpx.Client, text: str = "hello there", **others: Any) -> dict[str, Any]:
    response = client.post("/ask", json=ask_body(text, **(NEVER | others)))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def history_of(answer: dict[str, Any]) -> str:
    history: str = answer["meta"]["history"]
    return history


def past(*turns: tuple[str, dict[str, Any]]) -> list[dict[str, str]]:
    return [{"player": said, "npc": answer["text"]} for said, answer in turns]


def num_in_flight(service: Service) -> list[int]:
    """Turns of each conversation that run or wait."""
    return [each.num_users for each in service.dialogue.sessions._conversations.values()]


def test_a_conversation_goes_on_where_it_was_whether_its_history_is_told_or_not(
    client: httpx.Client,
) -> None:
    first = ask(client, "hello there")
    second = ask(client, "where is the lamp")
    told = past(("hello there", first), ("where is the lamp", second))
    third = ask(client, "and now?", dialogue_history=told)
    told += past(("and now?", third))
    window = ask(client, "thank you", dialogue_history=told[-1:])
    assert list(map(history_of, (first, second, third, window))) == ["fresh", *["continued"] * 3]


def test_a_turn_is_appended_to_the_tokens_of_those_before(
    service: Service, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    first = ask(client, "hello there")
    second = ask(client, "where is the lamp")
    one, two = (list(request.prompt) for request in spy.requests)
    assert two[: len(one)] == one
    encode = service.loaded.encoder.encode
    rest = two[len(one) :]
    ending = encode([first["text"], End(), Special.PLAYER, "where is the lamp", Special.STATE])
    assert rest[-len(ending) :] == ending, "no state has changed, so none is told"
    assert rest[0] != encode([Special.NPC])[0], "the decision's words come first"
    usage = second["meta"]["usage"]
    assert usage["cached_tokens"] >= len(one)


def test_a_history_that_was_edited_is_the_one_that_counts(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ask(client, "hello there")
    edited = [{"player": "hello there", "npc": first["text"] + " gold"}]
    assert history_of(ask(client, "hm", dialogue_history=edited)) == "rebuilt"
    assert history_of(ask(client, "well")) == "continued"


def test_a_turn_taken_back_is_not_remembered(client: httpx.Client) -> None:
    first, second = ask(client, "hello there"), ask(client, "the lamp")
    again = ask(client, "the sword", dialogue_history=past(("hello there", first)))
    assert history_of(again) == "rebuilt"
    told = past(("hello there", first), ("the sword", again))
    assert history_of(ask(client, "hm", dialogue_history=told)) == "continued"
    told = past(("hello there", first), ("the lamp", second))
    assert history_of(ask(client, "hm", dialogue_history=told)) == "rebuilt"


def test_an_empty_history_begins_afresh(client: httpx.Client) -> None:
    ask(client)
    assert history_of(ask(client, dialogue_history=[])) == "fresh"
    assert history_of(ask(client)) == "continued"


def test_a_longer_history_than_the_remembered_one_is_another(client: httpx.Client) -> None:
    answer = ask(client, "hello there")
    twice = past(("hello there", answer)) * 2
    assert history_of(ask(client, dialogue_history=twice)) == "rebuilt"


def test_players_sessions_and_npcs_are_apart(client: httpx.Client) -> None:
    ask(client, player_id="p1")
    for others in ({"player_id": "p2"}, {"npc_id": "rook"}, {"session_id": "s"}):
        assert history_of(ask(client, **others)) == "fresh"
        assert history_of(ask(client, **others)) == "continued"


def test_the_session_that_a_turn_was_given_may_be_named_by_the_next(client: httpx.Client) -> None:
    session_id = ask(client, player_id="p" * 128)["meta"]["session_id"]
    headers = {"X-Session-ID": session_id}
    body = ask_body(player_id="p" * 128, session_id=session_id, **NEVER)
    assert history_of(client.post("/ask", json=body, headers=headers).json()) == "continued"
    headers = {"X-Session-ID": "s" * 258}
    refused = check_problem(
        client.post("/ask", json=ask_body(), headers=headers), 422, "invalid_field", "X-Session-ID"
    )
    assert refused["detail"] == "X-Session-ID has 258 characters; send 1 to 257"


def test_the_language_of_a_conversation_stays_that_of_its_beginning(client: httpx.Client) -> None:
    ask(client, "안녕하세요, 어디 있어요?")
    answer = ask(client, "ok", explain=True)
    assert answer["meta"]["explain"]["scene"]["lang"] == "ko"
    changed = ask(client, "ok", lang="en")
    assert history_of(changed) == "rebuilt"


def test_after_a_restart_only_a_told_history_is_known(
    tiny_service: Service, client: httpx.Client
) -> None:
    told = past(("hello there", ask(client, "hello there")))
    with client_of(altered(tiny_service, sessions=Sessions())) as restarted:
        assert history_of(ask(restarted, "hm", dialogue_history=told, player_id="a")) == "rebuilt"
        assert history_of(ask(restarted, "hm", player_id="b")) == "fresh"


def test_two_turns_in_flight_are_answered_one_after_the_other(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, gate = Spy.on(monkeypatch), Gate()
    gated = altered(service, HookedHeads(service.loaded.heads, gate.wait))
    with served(gated) as url, ThreadPoolExecutor() as pool:

        def post(text: str) -> dict[str, Any]:
            body = ask_body(text, **NEVER)
            answer: dict[str, Any] = httpx.post(f"{url}/ask", json=body, timeout=30).json()
            return answer

        one = pool.submit(post, "hello there")
        assert gate.reached.wait(PATIENCE_S)
        two = pool.submit(post, "where is the lamp")
        wait_until(lambda: num_in_flight(service) == [2])
        gate.opened.set()
        assert [history_of(f.result()) for f in (one, two)] == ["fresh", "continued"]
    first, second = (list(request.prompt) for request in spy.requests)
    assert second[: len(first)] == first


def test_a_client_that_leaves_before_the_state_was_never_there_and_blocks_nobody(
    service: Service,
) -> None:
    gate = Gate()
    with served(altered(service, HookedHeads(service.loaded.heads, gate.wait))) as url:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/ask", json=ask_body(**NEVER), timeout=0.3)
        gate.opened.set()
        wait_until(lambda: is_idle(service.engine))
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            assert history_of(ask(client)) == "fresh"


def test_a_client_that_leaves_after_the_state_has_had_its_turn(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy, gate = Spy.on(monkeypatch), Gate()
    spy.on_event = lambda event: gate.wait() if isinstance(event, State) else None
    with served(service) as url:
        body = ask_body(stream=True, **NEVER)
        with httpx.stream("POST", f"{url}/ask", json=body, timeout=PATIENCE_S) as response:
            assert next(response.iter_lines()) == "event: state"
        (sequence,) = spy.sequences
        wait_until(lambda: sequence.is_cancelled)
        gate.opened.set()
        wait_until(lambda: any(isinstance(event, Done) for event in spy.events))
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            assert history_of(ask(client)) == "continued"


def test_a_fallback_is_part_of_the_conversation(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    with client_of(service) as client:
        ask(client, "hello there")
        closed = ask(client, "and now?", precheck_passed=False)
        assert closed["meta"]["valid"] is False
        again = ask(client, "where is the lamp")
    assert history_of(again) == "continued"
    encode = service.loaded.encoder.encode
    told = encode([Special.PLAYER, "and now?", Special.STATE, Special.NPC, closed["text"], End()])
    prompt = list(spy.requests[-1].prompt)
    assert any(prompt[at : at + len(told)] == told for at in range(len(prompt)))


def test_a_reloaded_world_writes_the_remembered_turns_anew(service: Service) -> None:
    reloaded = altered(service, world=World(service.world.documents))
    with client_of(service) as client:
        ask(client)
    with client_of(reloaded) as client:
        assert history_of(ask(client)) == "rebuilt"
        assert history_of(ask(client)) == "continued"


def test_another_npc_config_writes_the_remembered_turns_anew(service: Service) -> None:
    hers = {"npc_config": {"lore": "She hid a pearl."}}
    with client_of(service) as client:
        ask(client)
        assert history_of(ask(client, context=hers)) == "rebuilt"
        assert history_of(ask(client, context=hers)) == "continued"
        assert history_of(ask(client)) == "rebuilt"


def test_another_initial_state_goes_on_with_the_transcript(service: Service) -> None:
    with client_of(service) as client:
        ask(client, npc_id="rook")
        assert history_of(ask(client, npc_id="rook", context=SOUR)) == "continued"


def test_what_the_game_says_of_an_npc_is_in_her_block_and_in_no_stored_prefix(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    with client_of(service) as client:
        ask(client)
        ask(client, player_id="other", context={"npc_config": {"lore": "She hid a pearl."}})
        ask(client, player_id="third", npc_id="rook", context=SOUR)
    (plain, hers, his) = spy.requests
    assert plain.prefixes
    assert not hers.prefixes
    assert his.prefixes, "his block is the world's: a state is no part of it"
    assert len(hers.prompt) > len(plain.prompt)


def test_a_transcript_that_outgrows_its_budget_loses_its_oldest_half_and_goes_on(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = Spy.on(monkeypatch)
    with client_of(altered(service, prompt_tokens=400)) as client:
        seen = [history_of(ask(client, f"hello gold sword {n} " * 3)) for n in range(16)]
    assert all(len(request.prompt) <= 400 for request in spy.requests)
    assert seen[0] == "fresh"
    rebuilt = [at for at, history in enumerate(seen) if history == "rebuilt"]
    assert len(rebuilt) >= 2
    assert all(later - earlier > 1 for earlier, later in pairwise(rebuilt)), "rarely"
    assert set(seen[1:]) == {"continued", "rebuilt"}


def test_what_an_outgrown_transcript_lost_is_told(service: Service) -> None:
    with client_of(altered(service, prompt_tokens=400)) as client:
        metas = [ask(client, f"hello gold sword {n} " * 3)["meta"] for n in range(16)]
    for meta in metas:
        assert ("dropped_turns" in meta) == (meta["history"] == "rebuilt")


def test_a_turn_too_long_for_any_prompt_costs_a_conversation_nothing(service: Service) -> None:
    with client_of(altered(service, prompt_tokens=400)) as client:
        first = ask(client, "hello there")
        huge = ask(client, "gold sword " * 180)
        assert huge["meta"]["reason"] == "prompt_too_long"
        told = past(("hello there", first))
        assert history_of(ask(client, "and now?", dialogue_history=told)) == "continued"


TURN = HistoryTurn("hello", "yes")


def test_only_so_many_turns_of_a_session_may_be_in_flight() -> None:
    async def crowd() -> None:
        sessions = Sessions()
        entered = asyncio.Event()

        async def one() -> None:
            async with sessions.turn(("s", "mina", ""), 60):
                await entered.wait()

        tasks = [asyncio.create_task(one()) for _ in range(MAX_USERS)]
        await asyncio.sleep(0)
        with pytest.raises(SessionBusy, match="8 turns of session 's' are in flight"):
            async with sessions.turn(("s", "mina", ""), 60):
                pass
        async with sessions.turn(("other", "mina", ""), 60):
            pass
        entered.set()
        await asyncio.gather(*tasks)

    asyncio.run(crowd())


def test_a_turn_waits_for_the_one_before_only_so_long() -> None:
    async def wait() -> None:
        sessions = Sessions()
        async with sessions.turn(("s", "mina", ""), 0):
            with pytest.raises(TimeoutError):
                async with sessions.turn(("s", "mina", ""), 0.01):
                    pass
        async with sessions.turn(("s", "mina", ""), 0):
            pass

    asyncio.run(wait())


def test_the_conversations_longest_out_of_use_are_forgotten_but_none_in_flight() -> None:
    async def use() -> None:
        sessions = Sessions(limit=3)
        async with sessions.turn(("held", "mina", ""), 0) as held:
            for number in range(9):
                async with sessions.turn((f"s{number}", "mina", ""), 0) as conversation:
                    conversation.append(TURN, None)
            assert len(sessions) == 3
            held.append(TURN, None)
        async with sessions.turn(("held", "mina", ""), 0) as again:
            assert again is held
        async with sessions.turn(("s8", "mina", ""), 0) as latest:
            assert latest.turns == [TURN]
        async with sessions.turn(("s0", "mina", ""), 0) as forgotten:
            assert forgotten.turns == []

    asyncio.run(use())


def test_the_api_key_with_most_conversations_gives_way() -> None:
    async def use() -> None:
        sessions = Sessions(limit=4)
        for owner, name in [("one", "s"), *(("two", f"s{number}") for number in range(9))]:
            async with sessions.turn((name, "mina", owner), 0) as conversation:
                conversation.append(TURN, None)
        async with sessions.turn(("s", "mina", "one"), 0) as kept:
            assert kept.turns == [TURN]

    asyncio.run(use())


def test_a_conversation_never_holds_more_than_its_bound_of_turns() -> None:
    conversation = Conversation()
    for _ in range(2 * MAX_TURNS):
        conversation.append(TURN, None)
        assert len(conversation.turns) <= MAX_TURNS
    assert conversation.is_cut
    assert conversation.continues_with([TURN] * 2 * MAX_TURNS)


def test_a_history_of_thousands_of_turns_is_kept_only_as_far_as_it_may_be_told() -> None:
    conversation = Conversation()
    conversation.restart([TURN] * 5_000)
    assert len(conversation.turns) == MAX_TURNS
    assert conversation.num_left_out == 5_000 - MAX_TURNS
    assert conversation.continues_with([TURN] * 5_000)


def test_time_spent_waiting_for_the_turn_before_counts_against_the_deadline(
    tiny_service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = altered(tiny_service, sessions=Sessions(), deadline_s=20.0)
    spy, gate = Spy.on(monkeypatch), Gate()
    gated = altered(service, HookedHeads(service.loaded.heads, gate.wait))
    with served(gated) as url, ThreadPoolExecutor() as pool:

        def post(text: str) -> httpx.Response:
            return httpx.post(f"{url}/ask", json=ask_body(text, **NEVER), timeout=PATIENCE_S)

        one = pool.submit(post, "hello there")
        assert gate.reached.wait(PATIENCE_S)
        two = pool.submit(post, "where is the lamp")
        wait_until(lambda: num_in_flight(service) == [2])
        released = time.monotonic()
        gate.opened.set()
        assert [each.result().status_code for each in (one, two)] == [200, 200]
    _, deadline = (request.deadline for request in spy.requests)
    assert deadline is not None
    assert deadline <= released + 20.0
