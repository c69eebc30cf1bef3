"""Prefixes that a request names come back from disk, and change nothing that is said."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.kv_cache import Offload
from runtime.llama_backend import LlamaModel
from runtime.prefix_store import PrefixStore
from runtime.prompt import Transcript
from runtime.sequence import Done, Request
from tests.runtime.conversation import NPC, decision, prompts
from tests.runtime.driving import EXACT, Bench, by_hand, greedy, make_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "prefixes"


@contextmanager
def restarted(model: LlamaModel, folder: Path) -> Iterator[Bench]:
    """A server's engine after a restart: nothing in memory, but what is on disk."""
    store = PrefixStore(folder, "tiny", 10**8)
    try:
        with by_hand(model, EXACT, max_residents=1, offload=Offload(store)) as bench:
            yield bench
    finally:
        store.close()


def asked(model: LlamaModel, number: int = 1) -> Request:
    encoder = make_encoder(model)
    num_prefix = len(encoder.begin(Transcript().begin(NPC)))
    prompt = prompts(encoder)[number]
    return Request(prompt, greedy(6), lambda _: decision(encoder), prefixes=[num_prefix])


def ask(bench: Bench, request: Request) -> Done:
    return bench.finish_one(request).done


def test_the_first_turn_after_a_restart_begins_at_the_stored_prefix(
    tiny: LlamaModel, folder: Path
) -> None:
    request = asked(tiny)
    with restarted(tiny, folder) as bench:
        cold = ask(bench, request)
        assert cold.usage.cached_tokens == 0
    with restarted(tiny, folder) as bench:
        warm = ask(bench, request)
        assert warm.usage.cached_tokens == request.prefixes[-1]
        assert warm.tokens == cold.tokens
        stats = bench.engine.stats
        assert (stats.num_restored, stats.num_unusable) == (1, 0)
        assert stats.num_stored_bytes > 1000
        assert ask(bench, asked(tiny, 2)).usage.cached_tokens >= request.prefixes[-1]
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
    assert again.tokens == cold.tokens
    assert again.usage.cached_tokens == 0
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
    assert again.tokens == cold.tokens
    assert again.usage.cached_tokens == 0
    assert "llama.cpp does not take it" in caplog.text


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
