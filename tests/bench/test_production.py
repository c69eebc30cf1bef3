"""`persona bench production` on a tiny model, and what its figures are made of."""

import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from bench import production
from bench.bandwidth import Bandwidth, array_bytes, last_cache_bytes, measure_bandwidth
from bench.make_model import SHAPES, make_model
from bench.production import read_memory, weight_bytes
from bench.production_figures import Figures, Measured, Memory, Row
from export.gguf_file import read_gguf, write_gguf
from runtime.llama_backend import LlamaContext
from server.cli import main
from tests.tiny_models import make_tiny

MEGABYTE = 2**20
NONE = Memory(0, 0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model in weights of 4 bits."""
    path = tmp_path_factory.mktemp("production") / "tiny.gguf"
    write_gguf(make_model("tiny", SHAPES["tiny"], "q4_k_m", 0), path)
    return path


@pytest.fixture(autouse=True)
def short_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bandwidth is that of a cache: quick, and of no matter here."""
    monkeypatch.setattr(production, "array_bytes", lambda _: MEGABYTE)


def bench(path: Path, *options: str) -> int:
    short = ["--conversations", "1", "3", "--tokens", "20", "--decode", "4", "--runs", "2"]
    return main(["bench", "production", str(path), *short, "--threads", "1", *options])


def measured(decode: float, read: float, resident: int = 0) -> Measured:
    return Measured(1.0, decode, Bandwidth(read, read / 2), Memory(resident, 0))


def test_every_figure_is_measured_told_and_drawn(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / "a.json", tmp_path / "a.png"]
    assert bench(path, "--json", str(files[0]), "--plot", str(files[1])) == 0
    report = msgspec.json.decode(files[0].read_bytes(), type=dict[str, Any])
    assert report["settings"]["tokens"] == 20
    figures = report["figures"]
    assert figures["weight_bytes_a_token"] == weight_bytes(path)
    assert figures["memory_loaded"]["resident"] > figures["memory_before"]["resident"] > 10**7
    cell = 2 * 2 * 128 * 2  # layers, keys and values, 2 KV heads of 64, f16
    assert figures["kv_bytes_a_cell"] == pytest.approx(cell, rel=0.05)
    one, three = figures["conversations"]
    assert [one["num_conversations"], three["num_conversations"]] == [1, 3]
    for row in (one, three):
        assert len(row["runs"]) == 2
        assert row["prefill_tokens_per_s"] > row["share_of_bandwidth"]["median"] > 0
        assert row["resident_bytes"] > figures["memory_before"]["resident"]
        assert all(run["bandwidth"]["read"] > 0 < run["bandwidth"]["copy"] for run in row["runs"])
    assert three["kv_bytes"] == 3 * one["kv_bytes"]
    assert files[1].stat().st_size > 1_000
    out = capsys.readouterr().out
    for word in ("prefill tok/s", "share of bandwidth", "GB/s read", "before loading"):
        assert word in out


def test_all_conversations_are_resident_while_one_speaks(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[list[int]] = []
    close = LlamaContext.close

    def closing(context: LlamaContext) -> None:
        held.append([context.num_cells(seq) for seq in range(context.config.n_seq_max)])
        close(context)

    monkeypatch.setattr(LlamaContext, "close", closing)
    assert bench(path) == 0
    assert held == [[20], *[[24], [24, 20, 20]] * 2]


def test_a_prompt_longer_than_a_batch_is_read_in_parts(path: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    assert bench(path, "--tokens", "1100", "--runs", "1", "--json", str(file)) == 0
    report = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    assert report["figures"]["kv_bytes_a_cell"] == pytest.approx(1_024, rel=0.05)


def test_a_row_of_an_embedding_matrix_is_all_that_is_read_unless_it_gives_logits_too(
    tmp_path: Path,
) -> None:
    tied, untied = make_tiny("qwen2", tmp_path).path, make_tiny("llama", tmp_path).path
    sizes = {
        path: {name: tensor.num_bytes for name, tensor in read_gguf(path).tensors.items()}
        for path in (tied, untied)
    }
    assert weight_bytes(tied) == sum(sizes[tied].values())
    assert weight_bytes(untied) == sum(sizes[untied].values()) - sizes[untied]["token_embd.weight"]


def test_the_share_is_of_the_bandwidth_that_each_run_saw() -> None:
    runs = [measured(10, 4_000), measured(5, 2_000), measured(20, 8_000)]
    share = Row(1, token_bytes=200, runs=runs).share
    assert (share.median, share.low, share.high) == (0.5, 0.5, 0.5)


def test_a_token_reads_all_weights_and_the_cells_before_it() -> None:
    figures = Figures(NONE, NONE, weights=1_000, kv_cell=2, num_prompt=50, num_reply=20, cache=0)
    assert figures.token_bytes == 1_000 + 2 * 60
    assert figures.kv_bytes(3) == 3 * 2 * 70


@pytest.mark.parametrize(("cache", "is_told"), [(10**9, True), (0, False)])
def test_weights_that_a_cache_holds_have_no_roof(
    cache: int,
    is_told: bool,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(production, "last_cache_bytes", lambda: cache)
    assert bench(path, "--runs", "1") == 0
    assert ("the weights fit the last cache" in capsys.readouterr().out) is is_told


def test_memory_tells_file_pages_from_others(tmp_path: Path) -> None:
    size = 256 * MEGABYTE  # so large that malloc has nothing like it left over from other tests
    (tmp_path / "a").write_bytes(bytes(32 * MEGABYTE))
    before = read_memory()
    mapped = np.memmap(tmp_path / "a", np.uint8, "r")
    assert mapped.max() == 0
    with_file = read_memory()
    block = np.ones(size, np.uint8)
    after = read_memory()
    assert block.all()
    assert with_file.resident - before.resident > 24 * MEGABYTE
    assert with_file.anonymous - before.anonymous < 8 * MEGABYTE
    assert after.anonymous - with_file.anonymous > size - 8 * MEGABYTE


def test_bandwidth_counts_what_is_read_and_what_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))
    found = measure_bandwidth(8 * MEGABYTE, 3)
    assert (found.read, found.copy) == (8 * MEGABYTE, 16 * MEGABYTE)
    assert found.best == found.copy


def test_every_thread_has_a_part_of_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    copy = np.copyto

    def copied(target: Any, source: Any) -> None:
        sizes.append(source.nbytes)
        copy(target, source)

    monkeypatch.setattr(np, "copyto", copied)
    measure_bandwidth(MEGABYTE, 3)
    parts = sizes[-3:]
    assert sum(parts) == MEGABYTE
    assert max(parts) - min(parts) <= 8


def test_an_array_is_four_times_the_caches_or_more() -> None:
    assert array_bytes(0) == 256 * MEGABYTE
    assert array_bytes(300 * MEGABYTE) == 1_200 * MEGABYTE
    assert array_bytes(10**9 + 1) % 8 == 0


def test_the_last_caches_are_counted_once_each(tmp_path: Path) -> None:
    caches = {
        "cpu0": [("2", "0", "512K"), ("3", "0-1", "16384K")],
        "cpu1": [("2", "1", "512K"), ("3", "0-1", "16384K")],
        "cpu2": [("2", "2", "512K"), ("3", "2", "8M")],
    }
    for cpu, indexes in caches.items():
        for at, index in enumerate(indexes):
            folder = tmp_path / cpu / "cache" / f"index{at}"
            folder.mkdir(parents=True)
            for name, text in zip(("level", "shared_cpu_list", "size"), index, strict=True):
                (folder / name).write_text(text + "\n")
    (tmp_path / "cpu3" / "cache" / "index0").mkdir(parents=True)
    assert last_cache_bytes(tmp_path) == 24 * MEGABYTE
    assert last_cache_bytes(tmp_path / "cpu3") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runs", "0"], "--runs is 0; it must be from 1 to"),
        (["--threads", "513"], "--threads is 513; it must be from 1 to 512"),
        (["--tokens", "0"], "--tokens is 0; it must be from 1 to"),
        (["--decode", "0"], "--decode is 0; it must be from 1 to"),
        (["--conversations", "1", "257"], "--conversations is 257; it must be from 1 to 256"),
        (["--tokens", "4096"], "have 4100 tokens, but tiny.gguf was made for 4096 at most"),
    ],
)
def test_arguments_that_nothing_can_be_measured_with_are_told(
    options: list[str], said: str, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(path, *options) == 1
    assert said in capsys.readouterr().err


def test_a_file_that_is_no_model_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(tmp_path / "none.gguf") == 1
    assert "none.gguf" in capsys.readouterr().err
    (tmp_path / "text.gguf").write_text("hello there")
    assert bench(tmp_path / "text.gguf") == 1
    assert "expected the magic bytes GGUF" in capsys.readouterr().err
