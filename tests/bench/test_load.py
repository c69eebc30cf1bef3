"""`persona bench load`: loops on a target that is made up, and all of it on a tiny server."""

import time
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import msgspec
import pytest

from bench import load
from bench.fairness import NUM_QUIET, measure_gaps
from bench.load import Found
from bench.load_loops import ClosedLoop, OpenLoop, Players, num_completed
from bench.load_targets import Kind, Outcome, ServerTarget
from bench.players import conversations_of, long_conversations, make_prompts, read_players
from bench.raw_loops import EndlessModel
from bench.server_process import SERVE, run_server
from runtime.context_config import ContextConfig
from runtime.engine import Engine
from runtime.llama_backend import LlamaContext
from server.cli import main
from server.settings import read_settings
from tests.bench.conftest import NUM_CONVERSATIONS, Played
from tests.train.nari import turn
from train.dataset import TurnLabel


@dataclass
class Listener:
    """A target that takes some time, and notes what it was told."""

    seconds: float = 0.001
    kind: Kind = Kind.MAIN
    name: str = "listener"
    said: list[tuple[str, str, bool]] = field(default_factory=list)
    num_now: int = 0
    num_most: int = 0
    _lock: Lock = field(default_factory=Lock)

    def turn(self, session: str, line: TurnLabel, *, is_first: bool) -> Outcome:
        start = time.monotonic()
        with self._lock:
            self.said.append((session, line.player_utterance, is_first))
            self.num_now += 1
            self.num_most = max(self.num_most, self.num_now)
        time.sleep(self.seconds)
        with self._lock:
            self.num_now -= 1
        return Outcome(self.kind, start, time.monotonic() - start)


def players(played: Played) -> Players:
    return Players(conversations_of(read_players(played.data), 0))


def test_long_conversations_join_those_with_one_npc_in_one_language(played: Played) -> None:
    turns = [turn for turn in read_players(played.data) if turn.npc_id == "mina"]
    others = [msgspec.structs.replace(turn, npc_id="other") for turn in turns]
    num_parts = 2 * -(-len(turns) // 3)
    found = list(islice(long_conversations([*turns, *others], 3, 0), 2 * num_parts))
    assert found[:num_parts] == found[num_parts:], "over and over"
    for lines in found:
        assert len(lines) == 3
        assert len({(line.npc_id, line.lang) for line in lines}) == 1
    said = {(line.npc_id, line.player_utterance) for lines in found for line in lines}
    assert said == {(turn.npc_id, turn.player_utterance) for turn in [*turns, *others]}


def test_a_closed_loop_keeps_so_many_turns_under_way_and_sessions_in_order(
    played: Played,
) -> None:
    target = Listener(seconds=0.02)
    outcomes = ClosedLoop(3).run(target, players(played), 0.3)
    assert target.num_most == 3
    assert len(outcomes) == len(target.said) > 3
    by_session: dict[str, list[tuple[str, bool]]] = {}
    for session, words, is_first in target.said:
        by_session.setdefault(session, []).append((words, is_first))
    for said in by_session.values():
        assert [is_first for _, is_first in said] == [True, False][: len(said)]
        assert [words[-1] for words, _ in said] == ["0", "1"][: len(said)]
    begun = [said[0][0] for said in by_session.values()][:NUM_CONVERSATIONS]
    assert len(set(begun)) == min(NUM_CONVERSATIONS, len(by_session))


def test_a_session_that_fails_says_no_more(played: Played) -> None:
    target = Listener(kind=Kind.FAILED)
    outcomes = ClosedLoop(2).run(target, players(played), 5.0)
    assert [outcome.kind for outcome in outcomes] == [Kind.FAILED] * 2


def test_an_open_loop_does_not_wait_for_answers(played: Played) -> None:
    loop = OpenLoop(3_000, seed=0)
    target = Listener(seconds=0.4)
    outcomes = loop.run(target, players(played), 0.3)
    assert len(outcomes) == len(loop.arrivals(0.3)) > 5
    assert target.num_most > 3


def test_a_player_who_is_silent_speaks_before_a_new_one_comes(played: Played) -> None:
    target = Listener(seconds=0)
    OpenLoop(600, seed=1).run(target, players(played), 0.5)
    assert len({session.partition(",")[0] for session, *_ in target.said}) < len(target.said)


def test_arrivals_are_those_of_a_poisson_process_by_their_seed() -> None:
    loop = OpenLoop(60, seed=0)
    found = loop.arrivals(4_000)
    assert found == loop.arrivals(4_000) != OpenLoop(60, seed=1).arrivals(4_000)
    gaps = [b - a for a, b in pairwise(found)]
    mean = sum(gaps) / len(gaps)
    spread = sum((gap - mean) ** 2 for gap in gaps) / len(gaps)
    assert mean == pytest.approx(1, rel=0.1)
    assert spread == pytest.approx(mean**2, rel=0.2)


def test_a_turn_under_way_at_the_end_counts_for_its_part() -> None:
    outcomes = [
        Outcome(Kind.MAIN, 100.0, 2.0),
        Outcome(Kind.FALLBACK, 102.0, 2.0),
        Outcome(Kind.MAIN, 109.0, 4.0),
        Outcome(Kind.FAILED, 100.0, 1.0),
        Outcome(Kind.OVERLOADED, 100.0, 0.001),
    ]
    assert num_completed(outcomes, 100.0, 10.0) == pytest.approx(2.25)


def test_times_are_those_of_turns_that_the_model_answered() -> None:
    found = Found("t", "l", outcomes=[Outcome(Kind.MAIN, 0, t, t / 4) for t in (1.0, 2.0, 3.0)])
    found.outcomes.append(Outcome(Kind.FALLBACK, 0, 0.001))
    assert list(found.milliseconds("total") or ()) == pytest.approx([2_000.0, 2_900.0])
    assert list(found.milliseconds("state") or ()) == pytest.approx([500.0, 725.0])
    assert found.milliseconds("first token") is None
    assert (found.num(Kind.MAIN), found.num(Kind.FALLBACK)) == (3, 1)


def test_gaps_are_told_apart_by_when_the_newcomer_came(played: Played) -> None:
    model = EndlessModel(played.bundle / "model.gguf")
    context = LlamaContext(model, ContextConfig(4_096, 4, n_threads=1, n_threads_batch=1))
    reply, newcomer = make_prompts(model, read_players(played.data), 2, 400)
    with Engine(context) as engine:
        found = measure_gaps(engine, reply[:32], newcomer)
        assert engine.stats.num_running == 0
    context.close()
    model.close()
    assert NUM_QUIET - 10 < len(found.quiet) < 500
    assert found.busy
    assert found.quiet_median > 0
    assert sum(found.busy) >= found.newcomer_s


def test_an_answer_over_http_tells_when_state_and_first_token_came(played: Played) -> None:
    line = read_players(played.data)[0]
    settings = msgspec.structs.replace(read_settings(), bundle=played.bundle, world=played.world)
    with run_server(SERVE, settings) as server:
        server.wait_until_ready()
        target = ServerTarget(server, max_tokens=4)
        first = target.turn("a", line, is_first=True)
        unknown = msgspec.structs.replace(line, npc_id="nobody")
        refused = target.turn("b", unknown, is_first=True)
        server.process.terminate()
        server.process.wait()
        gone = target.turn("a", line, is_first=False)
    assert first.kind is Kind.MAIN, first.why
    assert first.state_s is not None
    assert first.first_token_s is not None
    assert 0 < first.state_s <= first.first_token_s <= first.total_s
    assert refused.kind is Kind.FAILED
    assert "404" in refused.why
    assert gone.kind is Kind.FAILED
    assert gone.why


FEW = ["--sessions", "1", "2", "--rates", "600", "--seconds", "0.4", "--max-tokens", "3"]


@pytest.fixture
def easy_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a busy machine keeps too."""
    for name in ("MAX_STRETCH", "MAX_GAP_S"):
        monkeypatch.setattr(load, name, 1e6)


@pytest.mark.usefixtures("easy_bounds")
def test_every_figure_is_told_and_drawn(played: Played, tmp_path: Path) -> None:
    report, plot = tmp_path / "a.json", tmp_path / "a.png"
    options = [*FEW, "--newcomer", "200", "--runs", "2"]
    files = ["--json", str(report), "--plot", str(plot)]
    assert main(["bench", "load", *played.options, *options, *files]) == 0
    content: dict[str, Any] = msgspec.json.decode(report.read_bytes())
    loads, fairness = content["figures"]["loads"], content["figures"]["fairness"]
    assert [each["load"] for each in loads] == [
        "closed, 1 at once",
        "closed, 2 at once",
        "open, 600 a minute",
    ]
    for each in loads:
        assert len(each["turns_per_minute"]) == 2
        assert min(each["turns_per_minute"]) > 0
        assert each["num"]["main"] > 0
        assert each["num"]["failed"] == each["num"]["overloaded"] == 0
        assert all(0 < p50 <= p95 for p50, p95 in each["milliseconds"].values())
    assert len(fairness["runs"]) == 2
    assert fairness["stretch"]["median"] > 0
    assert content["settings"]["bundle"] == played.bundle.name
    assert content["settings"]["peers"] == []
    assert plot.stat().st_size > 1_000


@pytest.mark.usefixtures("easy_bounds")
@pytest.mark.parametrize("bound", ["MAX_STRETCH", "MAX_GAP_S"])
def test_a_missed_bound_is_told_and_an_exit_code(
    played: Played, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], bound: str
) -> None:
    monkeypatch.setattr(load, bound, 1e-6)
    none = ["--sessions", "--rates", "--newcomer", "64", "--runs", "1"]
    assert main(["bench", "load", *played.options, *none]) == 1
    out = capsys.readouterr().out
    assert (out.count("kept"), out.count("MISSED")) == (1, 1)


def test_a_world_without_the_players_npc_is_told(
    played: Played, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [turn("x", 0, "hello", "help", npc_id="nobody")]
    (tmp_path / "all.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    options = [*played.options[:4], "--data", str(tmp_path), "--newcomer", "64", "--runs", "1"]
    assert main(["bench", "load", *options, *FEW]) == 1
    assert "does not answer for 'nobody': 404" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runs", "0"], "--runs is 0; it must be from 1"),
        (["--sessions", "2", "0"], "--sessions is 0"),
        (["--rates", "0"], "--rates is 0"),
        (["--seconds", "0"], "--seconds is 0; it must be from 0.1"),
        (["--max-tokens", "513"], "--max-tokens is 513; it must be from 1 to 512"),
        (["--newcomer", "7"], "--newcomer is 7"),
        (["--swap-mb", "0"], "--swap-mb is 0"),
        (["--llama-threads", "0"], "--llama-threads is 0"),
        (["--newcomer", "5000"], "the cache has 4096"),
        (["--data", "no-such-folder"], "no-such-folder: no *.jsonl"),
    ],
)
def test_bad_arguments_are_told(
    played: Played, options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "load", *played.options, *options]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.usefixtures("easy_bounds")
def test_peers_take_turns_and_their_bounds_count(
    played: Played,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(load, "COMPARED", "closed, 2 at once")
    report = tmp_path / "a.json"
    options = [*FEW, "--newcomer", "64", "--runs", "2", "--peers", "two-pass"]
    for bound, code, word in ((1e-6, 0, "kept"), (1e6, 1, "MISSED")):
        monkeypatch.setitem(load.MIN_TIMES, "two passes", bound)
        files = ["--json", str(report)]
        assert main(["bench", "load", *played.options, *options, *files]) == code
        assert word in capsys.readouterr().out
    content = msgspec.json.decode(report.read_bytes())
    assert content["settings"]["peers"] == ["two passes"]
    figures = content["figures"]
    peers = [each for each in figures["loads"] if each["target"] == "two passes"]
    assert [each["load"] for each in peers] == [each["load"] for each in figures["times"]]
    for each in peers:
        assert each["num"]["main"] > 0
        assert each["num"]["failed"] == 0
        assert each["milliseconds"]["state"][0] > 0
    assert all(each["times"]["median"] > 0 for each in figures["times"])


@pytest.mark.usefixtures("easy_bounds")
def test_a_server_with_swap_space_takes_turns_with_one_without(
    played: Played, tmp_path: Path
) -> None:
    report = tmp_path / "a.json"
    options = ["--sessions", "2", "--rates", "--seconds", "0.5", "--newcomer", "64"]
    files = ["--swap-mb", "8", "--runs", "1", "--json", str(report)]
    assert main(["bench", "load", *played.options, *options, *files]) == 0
    content = msgspec.json.decode(report.read_bytes())
    assert content["settings"]["peers"] == ["persona serve, swap space 8 MB"]
    assert [each["num"]["failed"] for each in content["figures"]["loads"]] == [0, 0]
    assert content["figures"]["times"][0]["times"]["median"] > 0


def test_a_llama_server_that_is_not_there_is_told(
    played: Played, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*FEW, "--newcomer", "64", "--runs", "1", "--llama-server", "/no/such/program"]
    assert main(["bench", "load", *played.options, *options]) == 1
    assert "scripts/build-llama-server" in capsys.readouterr().err
