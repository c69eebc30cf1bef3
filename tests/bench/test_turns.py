"""A growing conversation, ours and the peers', on a tiny model and a small world."""

import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import turns, turns_figures
from bench.peer_llama_server import LlamaServerPeer
from bench.peer_raw import RawPeer
from bench.peer_two_pass import Spelling, TwoPassPeer
from bench.peers import Peer, PeerAsk
from bench.turn_script import AppendOnly, Rewritten, ScriptedTurn
from heads.bundle import MODEL, cache_folder
from runtime.context_config import ContextConfig
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.prompt import Special
from server.cli import main
from tests.server.small_world import write_small_world
from tests.tiny_bundle import write_tiny_bundle

SAID = ("안녕하세요", "목걸이 어디 있어요?", "도와 주세요", "감사합니다", "그 사람은요?")
SERVERS = sorted((cache_folder() / "llama-server").glob("*/llama-server"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What players say to Mina, in two conversations, and to Rook."""
    folder = tmp_path_factory.mktemp("data")
    lines = [
        line(f"{npc}-{part}", at, npc, text)
        for npc, parts in (("mina", 2), ("rook", 1))
        for part in range(parts)
        for at, text in enumerate(SAID)
    ]
    (folder / "all.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, lines)))
    return folder


def line(conversation: str, at: int, npc: str, text: str) -> dict[str, Any]:
    tags = {"quest_stage": "started", "location": "pier", "npc_mood": "calm"}
    return {
        "conversation": conversation,
        "turn": at,
        "npc_id": npc,
        "tags": {**tags, "trust": at / 10, "relationship": 0.1},
        "player_utterance": f"{text} {conversation}",
        "response": "바람이 세군요.",
        "delta": {"trust": 0.0},
        "flag": {"give_item": 0},
        "lang": "ko",
        "split_group": conversation,
    }


Bench = Callable[..., int]


@pytest.fixture
def bench(bundle: Path, world: Path, data: Path) -> Bench:
    places = ["--bundle", str(bundle), "--world", str(world), "--data", str(data)]
    small = ["--npc", "mina", "--runs", "1", "--threads", "1", "--turns", "4", "--residents", "0"]

    def run(*options: str) -> int:
        return main(["bench", "turns", *places, *small, "--reply-tokens", "4", *options])

    return run


@pytest.fixture
def easy_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a random model on a busy machine keeps too."""
    for name in ("MAX_OVER_RAW", "MAX_OVER_TWO_PASS"):
        monkeypatch.setattr(turns, name, 1e4)
    for name in ("MAX_EXTRA", "MAX_SHARE"):
        monkeypatch.setattr(turns_figures, name, 1e4)


@pytest.mark.usefixtures("easy_bounds")
def test_every_figure_is_given_of_ours_and_of_every_peer(bench: Bench, tmp_path: Path) -> None:
    report, plot = tmp_path / "report.json", tmp_path / "plot.png"
    options = ["--runs", "2", "--residents", "0", "3", "--json", str(report), "--plot", str(plot)]
    assert bench(*options) == 0
    found = msgspec.json.decode(report.read_bytes())["figures"]
    assert [one["name"] for one in found["times"]] == [
        "ours, 0 others",
        "ours, 3 others",
        "llama.cpp alone, 0 others, appended",
        "llama.cpp alone, 3 others, appended",
        "two passes, rewritten",
        "two passes, appended",
    ]
    for one in found["times"]:
        assert [len(run) for run in one["runs"]] == [3, 3]
        for turn in (turn for run in one["runs"] for turn in run):
            assert 0 < turn["state_ms"] <= turn["total_ms"]
            assert 0 < turn["first_token_ms"] <= turn["total_ms"]
            assert turn["num_evaluated"] > 0
    assert [one["ours_over_it"] is None for one in found["times"]] == [True, *[False] * 5]
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("easy_bounds")
def test_a_turn_evaluates_its_own_blocks_whoever_else_is_resident(
    bench: Bench, tmp_path: Path
) -> None:
    report = tmp_path / "report.json"
    assert bench("--residents", "0", "3", "--peers", "raw", "--json", str(report)) == 0
    figures = msgspec.json.decode(report.read_bytes())["figures"]
    alone, among = (one["runs"] for one in figures["tokens"])
    for run in (*alone, *among):
        assert len(run) == 3
        for turn in run:  # besides, the line's end, and its text if that is tokenised otherwise
            assert 0 < turn["num_evaluated"] - turn["num_own"] < 20 < turn["num_own"]
    assert [one["num_residents"] for one in figures["tokens"]] == [1, 4]


@pytest.mark.usefixtures("easy_bounds")
def test_a_long_conversation_is_cut_and_the_cuts_are_counted(bench: Bench, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    options = ["--turns", "30", "--prompt-tokens", "512", "--peers"]
    assert bench(*options, "--json", str(report)) == 0
    (tokens,) = msgspec.json.decode(report.read_bytes())["figures"]["tokens"]
    assert tokens["num_cuts"] >= 2
    assert tokens["worst_turn"] > tokens["worst_extra"] + 100
    assert 1 < tokens["evaluated_over_own"] < 3


@pytest.mark.usefixtures("easy_bounds")
def test_a_missed_bound_is_shown_and_exits_with_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "MAX_OVER_RAW", 1e-6)
    assert bench("--peers", "raw") == 1
    said = capsys.readouterr().out
    assert said.count("MISSED") == 1
    assert "scripts/build-llama-server" in said


@pytest.mark.usefixtures("easy_bounds")
def test_llama_server_has_the_bound_of_two_passes(
    bundle: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(LlamaModel(bundle / MODEL, vocab_only=True)) as vocabulary:

        def stand_in(_: Path, model: Path, **limits: int) -> TwoPassPeer:
            return TwoPassPeer(model, vocabulary, **limits)

        monkeypatch.setattr(turns, "LlamaServerPeer", stand_in)
        monkeypatch.setattr(turns, "MAX_OVER_TWO_PASS", 1e-6)
        assert bench("--peers", "--llama-server", "llama-server") == 1
    assert capsys.readouterr().out.count("MISSED") == 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--npc", "nobody"], "'nobody'"),
        (["--turns", "1"], "--turns is 1; it must be from 2"),
        (["--runs", "0"], "--runs is 0"),
        (["--residents", "0", "999"], "--residents is 999"),
        (["--data", "nowhere"], "nowhere: no *.jsonl"),
        (["--llama-server", "no-such-program"], "scripts/build-llama-server"),
        (["--llama-server", sys.executable], "ended with"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_a_remedy(
    bench: Bench, capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    assert bench("--peers", *options) == 1
    assert told in capsys.readouterr().err


@pytest.fixture(scope="module")
def encoder(bundle: Path) -> Iterator[PromptEncoder]:
    with closing(LlamaModel(bundle / MODEL)) as model:
        yield PromptEncoder(model, find_special_ids(model))


def test_an_appended_prompt_begins_with_the_last_one_and_a_rewritten_one_does_not(
    encoder: PromptEncoder,
) -> None:
    def turn(trust: str) -> ScriptedTurn:
        state = [Special.PLAYER_STATE, f"trust={trust}"]
        words = [Special.PLAYER, "hello"]
        return ScriptedTurn(
            opening=encoder.encode([*state, *words, Special.STATE]),
            head=encoder.encode([*state, Special.CTX]),
            words=encoder.encode(words),
            decision=encoder.encode(["trust=+", Special.NPC]),
            num_reply=2,
        )

    reply = encoder.encode(["you"])
    prompts = {}
    for layout in (AppendOnly(encoder), Rewritten(encoder)):
        first = layout.prompt(turn("0.10"))
        layout.hear(turn("0.10"), reply)
        prompts[type(layout)] = first, layout.prompt(turn("0.20"))
    for first, second in prompts.values():
        assert first[-1] == second[-1] == encoder.state_id
        assert set(reply) <= set(second)
    first, second = prompts[AppendOnly]
    assert second[: len(first)] == first
    first, second = prompts[Rewritten]
    assert second[: len(turn("0.20").head)] == turn("0.20").head
    (shown,) = encoder.encode([Special.PLAYER_STATE])
    assert [tokens.count(shown) for tokens in (first, second)] == [1, 1]


@pytest.fixture(scope="module")
def raw(bundle: Path) -> Iterator[RawPeer]:
    with closing(LlamaModel(bundle / MODEL)) as model:
        config = ContextConfig(n_ctx=1_024, n_seq_max=2, n_batch=16, n_threads=1)
        with closing(LlamaContext(model, config)) as context:
            yield RawPeer(context)


def some_turns(encoder: PromptEncoder) -> list[PeerAsk]:
    """Two turns of a transcript; the second goes on from the first."""
    decision = encoder.encode(["trust=+", Special.NPC])
    first = encoder.begin([Special.SYS, "mina", Special.PLAYER, SAID[0], Special.STATE])
    more = encoder.encode([Special.PLAYER, SAID[1], Special.STATE])
    return [
        PeerAsk(first, decision, 4),
        PeerAsk([*first, *decision, *more], decision, 4),
    ]


def test_the_floor_evaluates_only_what_is_new(raw: RawPeer, encoder: PromptEncoder) -> None:
    one, two = some_turns(encoder)
    raw.close()
    assert raw.ask(one).num_evaluated == len(one.prompt) + len(one.decision)
    found = raw.ask(two)
    num_new = len(two.prompt) - len(one.prompt) - len(one.decision)
    assert found.num_state == num_new
    assert found.num_evaluated == num_new + len(two.decision)
    assert raw.ask(two).num_state == 1


def check_same(peer: Peer, raw: RawPeer, encoder: PromptEncoder) -> None:
    """The peer reads and says what the floor does."""
    raw.close()
    for turn in some_turns(encoder):
        expected, found = raw.ask(turn), peer.ask(turn)
        np.testing.assert_allclose(found.state, expected.state, atol=0.02, rtol=0.02)
        assert list(found.tokens)[:1] == list(expected.tokens)[:1]
        assert found.num_state == len(turn.prompt)
    num_kept = len(some_turns(encoder)[0].prompt) + len(turn.decision)
    assert found.num_evaluated == 2 * len(turn.prompt) + len(turn.decision) - num_kept


def test_two_passes_give_the_state_and_reply_of_one(
    bundle: Path, raw: RawPeer, encoder: PromptEncoder
) -> None:
    with closing(LlamaModel(bundle / MODEL, vocab_only=True)) as vocabulary:
        peer = TwoPassPeer(bundle / MODEL, vocabulary, num_tokens=512, num_threads=1)
        with closing(peer):
            check_same(peer, raw, encoder)


@pytest.mark.skipif(not SERVERS, reason="scripts/build-llama-server was never run")
def test_llama_server_gives_the_state_and_reply_of_one_pass(
    bundle: Path, raw: RawPeer, encoder: PromptEncoder
) -> None:
    peer = LlamaServerPeer(SERVERS[-1], bundle / MODEL, num_tokens=512, num_threads=1)
    with closing(peer):
        check_same(peer, raw, encoder)


def test_spelt_tokens_are_the_same_tokens_again(bundle: Path, encoder: PromptEncoder) -> None:
    tokens = some_turns(encoder)[1].prompt
    with closing(LlamaModel(bundle / MODEL, vocab_only=True)) as vocabulary:
        spelling = Spelling(vocabulary)
        text = spelling.spell(tokens)
        assert "<PLAYER>" in text
        assert spelling.tokenize(text.encode(), add_bos=False, special=True) == list(tokens)
