"""`persona bench http`, `memory` and `startup` on a tiny model, and the parts they are made of."""

import asyncio
import mmap
import os
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import http, memory, startup
from bench.asks import endless_bodies, session_bodies
from bench.instant_server import InstantEngine, Record, Reply, TimedEmbedder, current_record
from bench.memory import Reading, Watch, resident_bytes
from bench.players import read_players
from bench.server_process import run_server, shown_settings
from runtime.sampling import SamplingParams
from runtime.sequence import Done, Event, FinishReason, Request, State, Token
from server.cli import INTERRUPTED, main
from server.schemas import AskRequest
from server.settings import Settings
from tests.bench.conftest import Played
from tests.rag.fake_embedder import GramEmbedder
from tests.tiny_models import N_EMBD

EASY = 1e6


def test_a_report_shows_all_settings_of_the_server_but_keys_and_places(tmp_path: Path) -> None:
    settings = Settings(
        bundle=tmp_path / "a",
        embedder=str(tmp_path / "minilm"),
        api_keys="secret",
        admin_key="secret",
        api_keys_file=tmp_path / "keys",
    )
    shown = shown_settings(settings)
    hidden = {"host", "port", "api_keys", "api_keys_file", "admin_key"}
    assert set(shown) == set(Settings.__struct_fields__) - hidden
    assert (shown["bundle"], shown["world"], shown["embedder"]) == ("a", "mulmaru", "minilm")
    assert str(tmp_path) not in str(shown)
    assert "secret" not in str(shown)
    assert msgspec.json.decode(msgspec.json.encode(shown)) == shown


def test_a_server_gets_the_settings_that_are_given(tmp_path: Path) -> None:
    settings = Settings(bundle=tmp_path, world=tmp_path / "world", deadline_ms=1_234, swap_mb=56)
    names = ("PERSONA_BUNDLE", "PERSONA_WORLD", "PERSONA_DEADLINE_MS", "PERSONA_SWAP_MB")
    program = f"import os; print(*map(os.environ.get, {names}))"
    before = dict(os.environ)
    with run_server([sys.executable, "-c", program], settings) as server:
        server.process.wait(60)
        server.log.seek(0)
        told = server.log.read().decode().split()
        assert told == [str(tmp_path), f"{tmp_path}/world", "1234", "56"]
    assert os.environ == before


def bench(name: str, *options: str) -> int:
    return main(["bench", name, *options])


def report_of(path: Path) -> dict[str, Any]:
    report: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    return report


def asks(bodies: Sequence[bytes]) -> list[AskRequest]:
    return [msgspec.json.decode(body, type=AskRequest) for body in bodies]


def test_http_tells_every_part_of_both_ways_and_draws_them(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_P50_MS", EASY)
    monkeypatch.setattr(http, "MAX_P95_MS", EASY)
    files = [tmp_path / "a.json", tmp_path / "a.png"]
    options = ["--requests", "4", "--warm-up", "1", "--runs", "2"]
    assert (
        bench("http", *played.options, *options, "--json", str(files[0]), "--plot", str(files[1]))
        == 0
    )
    report = report_of(files[0])
    assert [way["name"] for way in report["figures"]] == ["JSON", "SSE"]
    for way in report["figures"]:
        assert way["num_main_path"] == 8
        whole = way["overhead"]
        assert len(whole["p50_ms"]) == len(whole["p95_ms"]) == 2
        assert all(0 < low <= high for low, high in zip(*whole.values(), strict=True))
        assert way["of it: heads and decision"]["p50_ms"][0] > 0
        assert way["of it: encoder, the utterance"]["p95_ms"] == [0, 0]
    assert report["settings"]["bundle"] == played.bundle.name
    assert files[1].stat().st_size > 1_000


@pytest.mark.parametrize(("limit", "is_good"), [(0.9, False), (1.1, True)])
def test_http_bounds_are_on_the_median_run(
    limit: float, is_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_P50_MS", limit)
    way = http.Way("JSON", "application/json")
    for wall in (1.0, 50.0, 1.0):
        http._add_run(way, [wall] * 3, [Record()] * 3)
    assert way.is_good is is_good


def test_overhead_leaves_out_the_engine_alone() -> None:
    record = Record(app=9, hearing=3, checking=1, decision=2, engine=1)
    parts = {name: spent(10.0, record) for name, spent in http.PARTS.items()}
    assert list(parts.values()) == [9, 3, 1, 2, 2, 1, 5]


def test_the_stand_in_tells_state_text_and_end_as_an_engine_does() -> None:
    vector = np.zeros(N_EMBD, np.float32)
    seen: list[object] = []

    def on_state(state: object) -> list[int]:
        seen.append(state)
        return [5, 6]

    async def collect(engine: InstantEngine, request: Request) -> list[Event]:
        return [event async for event in engine.stream(request)]

    with InstantEngine([vector], [Reply((1, 2, 3), ["안", "", "녕"])]) as engine:
        assert engine.is_running
        whole = asyncio.run(collect(engine, Request([7, 8], on_state=on_state)))
        cut = asyncio.run(collect(engine, Request([7], SamplingParams(max_tokens=1))))
    assert seen == [vector]
    assert [type(event) for event in whole] == [State, Token, Token, Done]
    done, short = whole[-1], cut[-1]
    assert isinstance(done, Done)
    assert isinstance(short, Done)
    assert (done.finish_reason, done.tokens) == (FinishReason.STOP, (1, 2, 3))
    assert (done.usage.prompt_tokens, done.usage.completion_tokens) == (4, 3)
    assert (short.finish_reason, short.tokens) == (FinishReason.LENGTH, (1,))
    assert not engine.is_running


def test_an_encoder_works_for_the_request_that_asked_before_the_engine_and_after() -> None:
    embedder = TimedEmbedder(GramEmbedder())

    async def ask(record: Record, engine: InstantEngine) -> None:
        current_record.set(record)
        await asyncio.to_thread(embedder.hear, "hello")
        before = record.hearing
        assert [event async for event in engine.stream(Request([7]))]
        await asyncio.to_thread(embedder.encode, ["One.", "Two."])
        assert record.hearing == before > 0

    async def ask_one() -> tuple[Record, Record]:
        one, other = Record(), Record()
        with InstantEngine([], [Reply((1,), ["a"])]) as engine:
            await asyncio.create_task(ask(one, engine))
            current_record.set(other)
        return one, other

    one, other = asyncio.run(ask_one())
    assert one.num_checked == 2
    assert one.checking > 0
    assert one.encoder == one.hearing + one.checking
    assert other == Record()


def test_memory_measures_growth_from_the_warm_server(
    played: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = iter([50, 90, 100, 105, 110, 110, 104])
    monkeypatch.setattr(memory, "resident_bytes", lambda _: next(sizes) * 10**6)
    files = [tmp_path / "a.json", tmp_path / "a.png"]
    options = ["--turns", "6", "--sessions", "3", "--warm-up", "2", "--tokens", "2"]
    assert (
        bench("memory", *played.options, *options, "--json", str(files[0]), "--plot", str(files[1]))
        == 1
    )
    figures = report_of(files[0])["figures"]
    assert [r["num_turns"] for r in figures["readings"]] == [0, 1, 2, 3, 4, 5, 6]
    warm, last = figures["warm"], figures["readings"][-1]
    assert (warm["num_turns"], warm["num_bytes"]) == (2, 100 * 10**6)
    assert (warm["held"]["conversations"], last["held"]["conversations"]) == (2, 3)
    assert last["held"]["residents"] > 1
    assert last["held"]["kv_cells_resident"] <= last["held"]["kv_cells_free"] == 4_096
    assert figures["growth"] == pytest.approx(0.04)
    assert figures["num_main_path"] == 6
    assert figures["cached_share"][0] == 0 < figures["cached_share"][-1] < 1
    assert "+4.00%" in capsys.readouterr().out
    assert files[1].stat().st_size > 1_000


def test_memory_tells_what_it_has_when_it_is_interrupted(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_calls = 0

    def resident(pid: int) -> int:
        nonlocal num_calls
        num_calls += 1
        if num_calls == 4:
            raise KeyboardInterrupt
        return resident_bytes(pid)

    monkeypatch.setattr(memory, "resident_bytes", resident)
    file = tmp_path / "a.json"
    options = ["--turns", "50", "--warm-up", "2", "--tokens", "2", "--json", str(file)]
    assert bench("memory", *played.options, *options) == INTERRUPTED
    figures = report_of(file)["figures"]
    assert figures["is_interrupted"] is True
    assert [r["num_turns"] for r in figures["readings"]] == [0, 1, 2]
    assert figures["growth"] is None
    assert figures["readings"][0]["num_bytes"] > 10**7


def test_memory_is_that_of_the_process() -> None:
    before = resident_bytes(os.getpid())
    with mmap.mmap(-1, 32 * 2**20) as block:  # pages of its own: a heap may have some to spare
        block.write(os.urandom(len(block)))
        assert resident_bytes(os.getpid()) - before > len(block) // 2


def test_growth_is_unknown_until_a_turn_after_the_warm_up() -> None:
    seen = Watch([Reading(0, 50, {}), Reading(2, 100, {})], warm=Reading(2, 100, {}))
    assert seen.growth is None
    seen.readings.append(Reading(3, 99, {}))
    assert seen.growth == pytest.approx(-0.01)


def test_startup_asks_the_same_turn_cold_and_warm(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "MAX_RATIO", EASY)
    files = [tmp_path / "a.json", tmp_path / "a.png"]
    options = ["--npc", "mina", "--runs", "1"]
    assert (
        bench(
            "startup", *played.options, *options, "--json", str(files[0]), "--plot", str(files[1])
        )
        == 0
    )
    figures = report_of(files[0])["figures"]
    (pair,) = figures["pairs"]
    assert pair["ready_s"] > 0.1
    assert pair["cold"]["state_ms"] == pair["cold_ms"] > 0
    assert pair["cold"]["num_prompt"] == pair["warm"]["num_prompt"]
    # She is known from the disk and from memory, and the words themselves are new to both.
    for at in ("cold", "warm"):
        assert 10 < pair[at]["num_cached"] < pair[at]["num_prompt"] - 3
    assert figures["ratio"]["median"] == pytest.approx(pair["cold_ms"] / pair["warm_ms"])
    assert figures["is_good"] is True


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("http", ["--requests", "0"], "--requests is 0; it must be 1 or more"),
        ("http", ["--warm-up", "-1"], "--warm-up is -1; it must be 0 or more"),
        ("http", ["--data", "nowhere"], "nowhere: no *.jsonl"),
        ("memory", ["--turns", "5", "--warm-up", "5"], "--turns is 5; it must be more than"),
        ("memory", ["--sessions", "0"], "--sessions is 0; it must be 1 or more"),
        ("startup", ["--runs", "0"], "--runs is 0; it must be 1 or more"),
        ("startup", ["--npc", "nobody"], "nobody speaks to 'nobody'"),
        ("startup", ["--npc", "mina", "--runs", "7"], "13 different lines with a state are needed"),
    ],
)
def test_arguments_that_nothing_can_be_measured_with_are_told(
    name: str, options: list[str], said: str, played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(name, *played.options, *options) == 1
    assert said in capsys.readouterr().err


def test_a_server_that_does_not_start_is_quoted(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench("memory", *played.options, "--bundle", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert "the server ended with" in said
    assert "expected a readable manifest" in said


def test_a_session_begins_with_no_past_and_goes_on_from_what_is_remembered(
    played: Played,
) -> None:
    turns = read_players(played.data)
    bodies = asks([*islice(endless_bodies(turns, "run", seed=0, max_tokens=3), 40)])
    heard: set[str | None] = set()
    for ask in bodies:
        assert (ask.history == []) == (ask.session_id not in heard)
        assert ask.gen_params.max_tokens == 3
        assert ask.precheck_passed is None
        heard.add(ask.session_id)
    assert len(heard) > 15


def test_sessions_speak_in_turn_each_with_its_own_npc(played: Played) -> None:
    turns = read_players(played.data)
    bodies = asks([*islice(session_bodies(turns, 3, max_tokens=3), 9)])
    assert [ask.session_id for ask in bodies] == [f"session {at}" for at in (0, 1, 2)] * 3
    assert [ask.npc_id for ask in bodies] == ["mina", "rook", "mina"] * 3
    assert [ask.history for ask in bodies] == [[]] * 3 + [None] * 6
    assert len({ask.text for ask in bodies if ask.session_id == "session 0"}) == 3
