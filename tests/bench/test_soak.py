"""`persona bench soak` on a tiny server, and what it would say of one that breaks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bench import soak
from bench.load_loops import Player
from bench.players import read_players
from bench.soak import Soak, _Reloads
from bench.soak_players import SHARES, Call, Crowd, Seen, behave
from server.cli import main
from tests.bench.conftest import Played

FEW = ["--seconds", "3", "--measure", "1", "--over", "0.3", "--reload-every", "0.5"]


def test_a_sound_server_has_no_faults_and_all_manners_come(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soak, "_capacity", lambda *_: 1_200.0)
    report = tmp_path / "report.json"
    main(["bench", "soak", *options, *FEW, "--max-tokens", "3", "--json", str(report)])
    figures = json.loads(report.read_text())["figures"]
    assert figures["faults"] == []
    assert set(figures["ends"]) == set(SHARES)
    assert all(sum(ends.values()) > 0 for ends in figures["ends"].values())
    assert figures["num_reloads"] >= 1
    assert len(figures["memory"]) == figures["num_reloads"] + 1
    assert figures["state_s"]["p99"] > 0
    assert "0 faults" in capsys.readouterr().out


def test_a_server_that_dies_is_a_fault_among_the_figures(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_Reloads, "run", lambda _, server, soak: server.process.kill())
    report = tmp_path / "report.json"
    brief = [*FEW, "--max-tokens", "3", "--json", str(report)]
    assert main(["bench", "soak", *options, *brief]) == 1
    figures = json.loads(report.read_text())["figures"]
    assert any("has ended" in fault or "/metrics" in fault for fault in figures["faults"])
    assert sum(figures["ends"]["json"].values()) > 0
    assert "faults" in capsys.readouterr().out


@pytest.mark.gemma
@pytest.mark.usefixtures("gemma")
def test_the_default_bundle_bears_more_than_it_can_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_THREADS", "1")  # the players work on the same cores
    report = tmp_path / "report.json"
    brief = ["--seconds", "40", "--measure", "5", "--reload-every", "5", "--deadline-ms", "20000"]
    main(["bench", "soak", *brief, "--json", str(report)])
    figures = json.loads(report.read_text())["figures"]
    assert figures["faults"] == []
    assert figures["num_reloads"] >= 3


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--seconds", "0", "--seconds is 0; it must be from 1"),
        ("--over", "11", "--over is 11; it must be from 0.1 to 10"),
        ("--deadline-ms", "1", "--deadline-ms is 1; it must be from 100"),
        ("--data", "nowhere", "nowhere"),
    ],
)
def test_bad_arguments_are_told(
    options: list[str], option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "soak", *options, option, value]) == 1
    assert said in capsys.readouterr().err


def answer(**others: Any) -> dict[str, Any]:
    meta = {
        "npc_id": "mina",
        "session_id": "session 7",
        "turn_id": "t",
        "valid": True,
        "path": "main",
        "reason": None,
        "text_source": "model",
        "history": "fresh",
        "flags_detail": {},
        "usage": {},
        "timings_ms": {},
        "bundle": "b",
    }
    meta |= others.pop("meta", {})
    return {"text": "Yes.", "delta": {"trust": 0.0}, "flags": {"f": False}, "meta": meta} | others


@contextmanager
def answering(status: int, content: bytes, heard: list[Any] | None = None) -> Iterator[int]:
    """The port of a server that says the same to everyone, and notes in `heard` what was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if heard is not None:
                heard.append(json.loads(body))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def stream(*events: tuple[str, Any]) -> bytes:
    parts = [f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events]
    return "".join(parts).encode()


STATE = {"turn_id": "t", "delta": {"trust": 0.0}, "flags": {"f": False}, "flags_detail": {}}
TOKEN = {"text": "Yes."}


def heard(manner: str, status: int, content: bytes) -> Seen:
    with answering(status, content) as port:
        return behave(manner, Call(port, b'{"text": "hello"}', "session 7", 7, 5.0))


@pytest.mark.parametrize(
    ("manner", "status", "content"),
    [
        ("json", 200, json.dumps(answer()).encode()),
        ("stream", 200, stream(("state", STATE), ("token", TOKEN), ("done", answer()))),
        ("slow", 200, stream(("state", STATE), ("token", TOKEN), ("done", answer()))),
        ("malformed", 422, b'{"code": "invalid_field"}'),
        ("malformed", 200, b"{}"),
        ("leaves", 200, b"{}"),
    ],
)
def test_right_answers_are_no_faults(manner: str, status: int, content: bytes) -> None:
    assert heard(manner, status, content).faults == []


LATER = STATE | {"flags": {"f": True}}


@pytest.mark.parametrize(
    ("manner", "status", "content"),
    [
        ("json", 500, b"{}"),
        ("json", 200, b"no json"),
        ("json", 200, json.dumps(answer(text=" ")).encode()),
        ("json", 200, json.dumps(answer(delta={"trust": 2.0})).encode()),
        ("json", 200, json.dumps(answer(meta={"session_id": "another"})).encode()),
        ("json", 200, json.dumps(answer(flags={"f": True}, meta={"valid": False})).encode()),
        ("stream", 200, b"no events"),
        ("stream", 200, stream(("state", STATE), ("token", TOKEN))),
        ("stream", 200, stream(("state", LATER), ("token", TOKEN), ("done", answer()))),
        ("stream", 200, stream(("state", STATE), ("done", answer()))),
        ("twice", 200, json.dumps(answer()).encode()),
        ("malformed", 500, b'{"code": "internal"}'),
    ],
)
def test_whatever_is_wrong_is_a_fault(manner: str, status: int, content: bytes) -> None:
    assert heard(manner, status, content).faults != []


def test_a_player_goes_on_with_the_conversation_in_whatever_manner(played: Played) -> None:
    line = read_players(played.data)[0]
    asked: list[dict[str, Any]] = []
    ends: list[bool] = []
    with answering(200, json.dumps(answer()).encode(), asked) as port:
        crowd = Crowd(port, ["json", "stream", "json"], 3, 5.0, lambda: ends.append(True))
        player = Player("p", iter([[line, line], [line]]))
        seen = [player.say(crowd) for _ in range(3)]
    assert [each.manner for each in seen] == ["json", "stream", "json"]
    assert [each["session_id"] for each in asked] == ["p, 0", "p, 0", "p, 1"]
    assert [each.get("dialogue_history") for each in asked] == [[], None, []]
    assert len(ends) == 3


def test_a_turn_that_two_were_told_is_a_fault() -> None:
    assert "turn t was told 2 times" in Soak(seen=[Seen("json", turn_id="t")] * 2).faults


def test_requests_that_stay_and_own_errors_are_faults() -> None:
    assert len(Soak(held={"running": 1.0, "waiting": 0.0}, num_internal=2).faults) == 2


@pytest.mark.parametrize("last", [[110, 110], [110, 170], [170, 110]])
def test_growth_is_of_the_least_between_the_thirds(last: list[int]) -> None:
    assert Soak(memory=[130, 100, 900, 100, 100, 100, 140, *last]).growth == pytest.approx(0.1)


def test_too_few_readings_say_nothing_of_growth() -> None:
    assert Soak(memory=[100, 100, 100, 100, 100, 100, 200, 200]).growth is None
