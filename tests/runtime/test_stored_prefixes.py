"""Prefixes that a request names come back from disk, and change nothing that is said."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.kv_cache import Offload
from runtime.llama_backend import LlamaContext, LlamaModel
from runtime.prefix_store import PrefixStore
from runtime.prompt import Transcript
from runtime.sequence import Request
from tests.runtime.conversation import NPC, decision, prompts
from tests.runtime.driving import EXACT, Bench, Client, by_hand, greedy, make_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@contextmanager
def restarted(
    model: LlamaModel, folder: Path, max_bytes: int = 10**8, max_residents: int = 1
) -> Iterator[Bench]:
    """A server's engine after a restart: nothing in memory, but what is on disk."""
    store = PrefixStore(folder, "tiny", max_bytes)
    try:
        with by_hand(model, EXACT, max_residents=max_residents, offload=Offload(store)) as bench:
            yield bench
    finally:
        store.close()


def asked(model: LlamaModel, number: int = 1) -> Request:
    encoder = make_encoder(model)
    num_prefix = len(encoder.begin(Transcript().begin(NPC)))
    prompt = prompts(encoder)[number]
    return Request(prompt, greedy(6), lambda _: decision(encoder), prefixes=[num_prefix])


def ask(bench: Bench, request: Request) -> Client:
    return bench.finish_one(request)


def num_cached(client: Client) -> int:
    return client.done.usage.cached_tokens


def check_same(client: Client, cold: Client) -> None:
    """The same state and the same words, which silence would not tell."""
    assert client.done.tokens == cold.done.tokens != ()
    np.testing.assert_allclose(client.states, cold.states, rtol=1e-3, atol=2e-3)


def test_the_first_turn_after_a_restart_begins_at_the_stored_prefix(
    tiny: LlamaModel, folder: Path
) -> None:
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        cold = ask(bench, request)
        assert num_cached(cold) == 0
    with restarted(tiny, folder) as bench:
        warm = ask(bench, request)
        assert num_cached(warm) == request.prefixes[-1]
        check_same(warm, cold)
        stats = bench.engine.stats
        assert (stats.num_restored, stats.num_unusable) == (1, 0)
        assert stats.num_stored_bytes > 1000
        assert num_cached(ask(bench, asked(tiny, 2))) >= request.prefixes[-1]
        assert bench.engine.stats.num_restored == 1, "it is in the cache now"


@pytest.mark.parametrize("num_kept", [0, 100, -1])
def test_a_damaged_blob_costs_an_evaluation_and_a_line_in_the_log(
    tiny: LlamaModel, folder: Path, num_kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        cold = ask(bench, request)
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:num_kept])
    with restarted(tiny, folder) as bench, caplog.at_level(logging.WARNING):
        again = ask(bench, request)
    check_same(again, cold)
    assert num_cached(again) == 0
    assert "it is evaluated again" in caplog.text


def test_a_blob_that_llama_does_not_take_is_evaluated_again(
    tiny: LlamaModel, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it would be if llama.cpp's format changed, and its version number did not."""
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        cold = ask(bench, request)
    tokens = request.prompt[: request.prefixes[-1]]
    store = PrefixStore(folder, "tiny", 10**8)
    store.refuse(tokens, "it is replaced")
    store.put(tokens, b"no state of any sequence" * 100)
    store.close()
    with restarted(tiny, folder) as bench, caplog.at_level(logging.WARNING):
        again = ask(bench, request)
        stats = bench.engine.stats
    check_same(again, cold)
    assert num_cached(again) == 0
    assert "llama.cpp does not take it" in caplog.text
    assert (stats.num_restored, stats.num_unusable) == (0, 1)


def no_memory(*_: object) -> bytes:
    """As if the machine had none left."""
    raise MemoryError


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("runtime.llama_backend.LlamaContext.save", MemoryError()),
        ("threading.Thread.start", RuntimeError("can't start new thread")),
    ],
    ids=["no memory", "no thread"],
)
def test_a_prefix_that_cannot_be_kept_harms_neither_its_request_nor_the_next_prefix(
    tiny: LlamaModel, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    with restarted(tiny, folder) as bench:
        with monkeypatch.context() as patch:
            patch.setattr(name, fail)
            assert num_cached(ask(bench, npc(5))) == 0
        cold = ask(bench, npc(7))
    with restarted(tiny, folder) as bench:
        warm = ask(bench, npc(7))
        check_same(warm, cold)
        assert num_cached(warm) == NUM_PREFIX


NUM_PREFIX = 40


def npc(token: int) -> Request:
    """What a stranger asks another NPC."""
    return Request([token] * NUM_PREFIX + [9] * 5, greedy(6), prefixes=[NUM_PREFIX])


def test_without_memory_to_read_a_prefix_it_is_evaluated_and_its_file_stays(
    tiny: LlamaModel,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        cold = ask(bench, request)
    with restarted(tiny, folder) as bench:
        monkeypatch.setattr(LlamaContext, "restore", no_memory)
        again = ask(bench, request)
        stats = bench.engine.stats
    check_same(again, cold)
    assert num_cached(again) == 0
    assert (stats.num_restored, stats.num_unusable) == (0, 0)
    assert len(list(folder.iterdir())) == 1
    assert "no memory to bring" in caplog.text


def test_the_time_to_read_a_prefix_is_not_spent_in_the_queue(
    tiny: LlamaModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        ask(bench, request)
    read = PrefixStore.read
    marks: list[str] = []
    with restarted(tiny, folder) as bench:
        client = bench.submit(request)

        def look(*args: Any) -> bytes | None:
            marks.extend(client.sequence.watch.marks)
            return read(*args)

        monkeypatch.setattr(PrefixStore, "read", look)
        bench.engine.step()
    assert marks == ["queue"]


def test_a_prefix_that_the_cache_has_all_the_time_is_not_the_first_to_be_deleted(
    tiny: LlamaModel, folder: Path
) -> None:
    popular, forgotten, new = npc(5), npc(6), npc(7)
    with restarted(tiny, folder) as bench:
        ask(bench, popular)
    (oldest,) = folder.iterdir()
    with restarted(tiny, folder) as bench:
        ask(bench, forgotten)
    for at, path in enumerate(sorted(folder.iterdir(), key=lambda path: path != oldest)):
        os.utime(path, (1_000 + at, 1_000 + at))
    room = 2 * oldest.stat().st_size
    with restarted(tiny, folder, room, max_residents=2) as bench:
        ask(bench, popular)
        os.utime(oldest, (1_000, 1_000))  # as it was read long ago
        assert num_cached(ask(bench, popular)) >= NUM_PREFIX
        ask(bench, new)
    with restarted(tiny, folder) as bench:
        cached = [num_cached(ask(bench, each)) for each in (popular, new, forgotten)]
    assert cached == [NUM_PREFIX, NUM_PREFIX, 0]


def test_a_prefix_that_was_not_evaluated_is_not_stored(tiny: LlamaModel, folder: Path) -> None:
    with restarted(tiny, folder) as bench:
        client = bench.submit(replace(asked(tiny), deadline=0.0))
        while bench.engine.step():
            pass
        assert client.is_over
    assert not folder.exists()


def test_a_prefix_that_is_the_whole_prompt_is_refused(tiny: LlamaModel, folder: Path) -> None:
    with (
        restarted(tiny, folder) as bench,
        pytest.raises(ValueError, match="one at least must follow a prefix"),
    ):
        bench.submit(Request([5, 6, 7], prefixes=[3]))
