"""Prefixes on disk: read back as they were, or not at all."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.prefix_store import PrefixStore

TOKENS, OTHERS = [2, 3, 5], [2, 3, 7]
STATE = bytes(range(256)) * 40
FILE_BYTES = len(STATE) + 32

Open = Callable[..., PrefixStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """Opens stores in one folder, and closes them at the end."""
    stores: list[PrefixStore] = []

    def open_store(key: str = "model", max_bytes: int = 10 * FILE_BYTES) -> PrefixStore:
        stores.append(PrefixStore(tmp_path / "prefixes", key, max_bytes))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


def write(store: PrefixStore, *prefixes: list[int]) -> None:
    for tokens in prefixes:
        assert store.wants(tokens)
        store.put(tokens, STATE)
    store.close()


def files(folder: Path) -> list[Path]:
    return sorted((folder / "prefixes").iterdir())


def test_a_state_is_read_back_by_another_store(opened: Open) -> None:
    write(opened(), TOKENS)
    store = opened()
    assert store.contains(TOKENS)
    assert not store.wants(TOKENS)
    assert store.read(TOKENS) == STATE
    assert (store.num_bytes, store.num_unusable) == (FILE_BYTES, 0)
    assert not store.contains(OTHERS)
    assert store.wants(OTHERS)


def test_another_model_finds_nothing(opened: Open) -> None:
    write(opened(), TOKENS)
    assert not opened("another model").contains(TOKENS)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-1],
        lambda raw: b"",
        lambda raw: raw[:100] + b"?" + raw[101:],
        lambda raw: b"?" + raw[1:],
    ],
    ids=["cut short", "empty", "changed", "wrong checksum"],
)
def test_a_damaged_file_is_told_of_and_deleted(
    opened: Open,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    write(opened(), TOKENS)
    (path,) = files(tmp_path)
    path.write_bytes(damage(path.read_bytes()))
    store = opened()
    with caplog.at_level(logging.WARNING):
        assert store.read(TOKENS) is None
    assert "its checksum is wrong; it is evaluated again" in caplog.text
    assert (files(tmp_path), store.contains(TOKENS), store.num_unusable) == ([], False, 1)
    write(store, TOKENS)
    assert opened().read(TOKENS) == STATE


def test_the_state_of_other_tokens_under_this_ones_name_is_damage(
    opened: Open, tmp_path: Path
) -> None:
    write(opened(), TOKENS, OTHERS)
    first, second = files(tmp_path)
    second.write_bytes(first.read_bytes())
    store = opened()
    assert sorted([store.read(TOKENS) is None, store.read(OTHERS) is None]) == [False, True]


def test_a_file_that_is_gone_is_evaluated_again(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(opened(), TOKENS)
    store = opened()
    files(tmp_path)[0].unlink()
    assert store.read(TOKENS) is None
    assert "No such file" in caplog.text
    assert store.wants(TOKENS)


def test_the_least_recently_read_makes_way(opened: Open, tmp_path: Path) -> None:
    store = opened(max_bytes=2 * FILE_BYTES)
    for tokens in (TOKENS, OTHERS):
        store.put(tokens, STATE)
        wait_for(store, tokens)
    store.read(TOKENS)
    write(store, [9])
    assert [store.contains(tokens) for tokens in (TOKENS, OTHERS, [9])] == [True, False, True]
    assert len(files(tmp_path)) == 2
    assert store.num_bytes == 2 * FILE_BYTES


def test_what_is_used_without_being_read_stays_too(opened: Open, tmp_path: Path) -> None:
    store = opened()
    write(store, TOKENS)
    age(tmp_path, 2_000)
    write(opened(), OTHERS)
    os.utime(next(path for path in files(tmp_path) if path.stat().st_mtime > 2_000), (3_000, 3_000))
    store = opened(max_bytes=2 * FILE_BYTES)
    store.note_use(TOKENS)
    store.note_use([8, 8])
    write(store, [9])
    assert [store.contains(tokens) for tokens in (TOKENS, OTHERS, [9])] == [True, False, True]


def test_the_next_store_knows_what_was_used(opened: Open, tmp_path: Path) -> None:
    write(opened(), TOKENS, OTHERS)
    age(tmp_path, 2_000)
    store = opened()
    store.note_use(OTHERS)
    store.close()
    store = opened(max_bytes=FILE_BYTES)
    assert [store.contains(tokens) for tokens in (TOKENS, OTHERS)] == [False, True]


def age(folder: Path, seconds: float) -> None:
    """All files were used last at this time since the epoch."""
    for path in files(folder):
        os.utime(path, (seconds, seconds))


def test_a_state_is_wanted_again_where_no_thread_could_be_started_to_write_it(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened()
    with monkeypatch.context() as patch:
        patch.setattr("threading.Thread.start", no_thread)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            store.put(TOKENS, STATE)
    write(store, TOKENS)
    assert opened().read(TOKENS) == STATE


def no_thread(*_: object) -> None:
    """As if the process had as many as it may."""
    raise RuntimeError("can't start new thread")


def wait_for(store: PrefixStore, tokens: list[int]) -> None:
    while not store.contains(tokens):
        assert not store.wants(tokens), "it was not written"


def test_a_smaller_bound_deletes_what_is_too_much(opened: Open, tmp_path: Path) -> None:
    write(opened(), TOKENS, OTHERS, [9])
    assert opened(max_bytes=FILE_BYTES).num_bytes == FILE_BYTES
    assert len(files(tmp_path)) == 1


def test_a_state_larger_than_the_bound_deletes_nothing(opened: Open) -> None:
    write(opened(), TOKENS)
    store = opened(max_bytes=FILE_BYTES)
    store.put(OTHERS, STATE * 2)
    store.close()
    assert store.contains(TOKENS)
    assert not store.contains(OTHERS)


def test_a_folder_that_cannot_be_written_is_told_of_once(
    opened: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "prefixes").write_text("a file", "utf-8")
    store = opened()
    write(store, TOKENS)
    assert "no more prefixes are kept" in caplog.text
    assert not store.wants(TOKENS)
    assert not store.contains(TOKENS)


def test_a_folder_that_is_only_read_is_read(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, who may write anything, a test can only pretend."""
    write(opened(), TOKENS, OTHERS, [9])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    store = opened(max_bytes=FILE_BYTES)  # two too many, that can't be deleted
    assert store.read([9]) == STATE
    store.refuse([9], "useless")
    assert store.num_unusable == 1


def test_a_process_that_starts_does_not_disturb_one_that_writes(
    opened: Open, tmp_path: Path
) -> None:
    folder = tmp_path / "prefixes"
    folder.mkdir()
    beside = folder / "abc.tmp"
    beside.write_bytes(b"being written")
    assert opened().num_bytes == 0
    assert beside.exists()


def test_the_bound_counts_what_other_processes_wrote(opened: Open, tmp_path: Path) -> None:
    stores = [opened(max_bytes=2 * FILE_BYTES) for _ in range(2)]
    for number, store in enumerate(stores):
        write(store, [number], [number, number])
    assert len(files(tmp_path)) == 2


def test_half_written_files_that_were_abandoned_are_deleted(opened: Open, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    folder.mkdir()
    (folder / "abc.tmp").write_bytes(b"half")
    os.utime(folder / "abc.tmp", (1_000, 1_000))
    assert opened().num_bytes == 0
    assert files(tmp_path) == []
