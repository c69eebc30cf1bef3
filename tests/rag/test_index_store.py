"""What is kept of an index is used; what is broken, foreign or out of date is made again."""

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from heads.bundle import file_sha256
from rag import index_store
from rag.documents import Document, ForbiddenTriggerList, ForbiddenTriggers, Lore, Questions
from rag.index import Letters, WorldIndex
from rag.index_store import (
    GRAPH,
    RECORD,
    TRIGRAMS,
    VECTORS,
    IndexReport,
    index_folder,
    open_index,
)
from rag.searchable import searchable
from tests.rag.fake_embedder import GramEmbedder

ASKED = ["Who lit the lamp?", "등대의 불은 누가 켰나요?", "Why did the bell ring at night?"]


def lore(count: int, npc_id: str = "mina") -> list[Document]:
    return [
        Lore(id=f"{npc_id}.{n}", npc_id=npc_id, content=f"{npc_id} tells tale {n} of the sea")
        for n in range(count)
    ]


DOCUMENTS: list[Document] = [
    *lore(6),
    *lore(3, "any"),
    Questions(id="q", about="mina.0", questions=ASKED),
    ForbiddenTriggerList(id="f", triggers=ForbiddenTriggers(text=["I will burn the pier."])),
]
NUM_TEXTS = 6 + 3 + len(ASKED) + 1


def answers(index: WorldIndex) -> list[object]:
    """What an index says to some questions, by both searches."""
    texts = [*ASKED, "tale 3", "burn"]
    return [
        [(m.document.id, round(m.score, 5), m.passage, round(m.letters, 6)) for m in matches]
        for text, vector in zip(texts, GramEmbedder().encode(texts), strict=True)
        for letters in (Letters(), Letters(text, 0.1))
        for matches in (
            index.near(vector, "mina", 9, letters=letters),
            index.search(vector, 9, letters=letters),
        )
    ]


def reopen(folder: Path, documents: Sequence[Document] = DOCUMENTS) -> tuple[list[str], bool]:
    """Open once more: the texts embedded for it, and whether the graph was made anew.

    The index must be what one made from nothing would be, whatever was in the folder.
    """
    embedder = GramEmbedder()
    index, report = open_index(documents, embedder, folder)
    fresh, _ = open_index(documents, GramEmbedder())
    assert answers(index) == answers(fresh)
    texts = searchable(documents).texts()
    np.testing.assert_array_equal(index.vectors(texts), fresh.vectors(texts))
    assert report == IndexReport(len(texts), len(embedder.embedded), report.is_graph_new)
    return embedder.embedded, report.is_graph_new


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index that is whole."""
    open_index(DOCUMENTS, GramEmbedder(), tmp_path / "index")
    return tmp_path / "index"


def test_the_first_time_every_text_is_embedded_once(tmp_path: Path) -> None:
    embedded, is_new = reopen(tmp_path / "deep" / "down")
    assert sorted(embedded) == sorted(searchable(DOCUMENTS).texts())
    assert len(embedded) == NUM_TEXTS
    assert is_new


def test_vectors_and_graph_are_used_again_when_nothing_changed(folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert reopen(folder) == ([], False)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert set(before) == {RECORD, VECTORS, GRAPH, TRIGRAMS}


def test_only_changed_texts_are_embedded_again(folder: Path) -> None:
    changed = Lore(id="mina.2", npc_id="mina", content="Quite another tale.")
    documents = [changed if document.id == "mina.2" else document for document in DOCUMENTS]
    assert reopen(folder, documents) == (["Quite another tale."], True)
    assert reopen(folder, documents) == ([], False)


def test_a_text_that_moves_to_another_document_is_not_embedded_again(folder: Path) -> None:
    moved = Questions(id="q", about="any.1", questions=ASKED)
    assert reopen(folder, [*DOCUMENTS[:9], moved, DOCUMENTS[10]]) == ([], True)


def test_other_examples_leave_the_graph_as_it_was(folder: Path) -> None:
    triggers = ForbiddenTriggers(text=["Hand over the pearl!"])
    documents = [*DOCUMENTS[:10], ForbiddenTriggerList(id="f", triggers=triggers)]
    assert reopen(folder, documents) == (["Hand over the pearl!"], False)
    assert reopen(folder, documents) == ([], False)


def test_what_left_the_world_leaves_the_index(folder: Path) -> None:
    assert reopen(folder, DOCUMENTS[:4]) == ([], True)
    assert np.load(folder / VECTORS).shape[0] == 4
    assert reopen(folder, DOCUMENTS[:4]) == ([], False)


def test_examples_that_left_the_world_leave_the_index(folder: Path) -> None:
    assert reopen(folder, DOCUMENTS[:-1]) == ([], False)
    assert np.load(folder / VECTORS).shape[0] == NUM_TEXTS - 1


def test_the_order_of_files_costs_no_embedding(folder: Path) -> None:
    assert reopen(folder, DOCUMENTS[::-1]) == ([], True)
    assert reopen(folder, DOCUMENTS[::-1]) == ([], False)


@pytest.mark.parametrize(("name", "dim"), [("other grams", 512), ("grams of 64", 64)])
def test_vectors_of_another_encoder_are_not_used(folder: Path, name: str, dim: int) -> None:
    other = GramEmbedder(name, dim)
    _, report = open_index(DOCUMENTS, other, folder)
    assert report == IndexReport(NUM_TEXTS, NUM_TEXTS, is_graph_new=True)
    assert len(other.embedded) == NUM_TEXTS
    assert reopen(folder)[1]  # and the other's are not used for the first
    assert reopen(folder) == ([], False)


def other_world(folder: Path) -> Path:
    """The index of a world that has nothing in common with this one but its size."""
    documents = [*lore(12, "rook"), *lore(1, "wren")]
    other = folder.parent / "other"
    open_index(documents, GramEmbedder(), other)
    return other


Damage = Callable[[Path], object]
"""Does something to a file of the index."""
DAMAGES: dict[str, Damage] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "garbled": lambda path: path.write_bytes(bytes(b ^ 0x5A for b in path.read_bytes())),
    "one bit off": lambda path: path.write_bytes(
        path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1])
    ),
    "of another world": lambda path: shutil.copy(other_world(path.parent) / path.name, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [RECORD, VECTORS, GRAPH, TRIGRAMS])
def test_a_broken_or_foreign_file_is_made_again_with_a_warning(
    folder: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES[damage](folder / name)
    embedded, is_new = reopen(folder)
    assert len(embedded) == (0 if name in (GRAPH, TRIGRAMS) else NUM_TEXTS)
    assert is_new == (name != TRIGRAMS)
    (warning,) = caplog.records
    assert warning.levelno == logging.WARNING
    assert str(folder) in warning.getMessage()
    assert "made again" in warning.getMessage()
    caplog.clear()
    assert reopen(folder) == ([], False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "num_embedded", "num_warnings"),
    [(RECORD, NUM_TEXTS, 0), (VECTORS, NUM_TEXTS, 1), (GRAPH, 0, 1), (TRIGRAMS, 0, 1)],
)
def test_a_missing_file_is_made_again(
    folder: Path,
    name: str,
    num_embedded: int,
    num_warnings: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without its record a folder is an empty one: nothing is wrong with it."""
    (folder / name).unlink()
    embedded, is_new = reopen(folder)
    assert (len(embedded), is_new) == (num_embedded, name != TRIGRAMS)
    assert len(caplog.records) == num_warnings
    assert reopen(folder) == ([], False)


def change_record(folder: Path, **keys: Any) -> None:
    record = json.loads((folder / RECORD).read_bytes())
    (folder / RECORD).write_text(json.dumps(record | keys))


@pytest.mark.parametrize(
    "keys",
    [{"surplus": 1}, {"texts": None}, {"vectors_sha256": "0"}, {"texts": ["one text too few"]}],
)
def test_a_record_that_says_something_else_is_not_trusted(
    folder: Path, keys: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    change_record(folder, **keys)
    embedded, is_new = reopen(folder)
    assert (len(embedded), is_new) == (NUM_TEXTS, True)
    assert "made again" in caplog.text


def test_an_index_of_another_format_is_made_again_without_a_word(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / RECORD).write_text(json.dumps({"format": index_store.FORMAT + 1, "other": "keys"}))
    assert len(reopen(folder)[0]) == NUM_TEXTS
    assert not caplog.records


@pytest.mark.parametrize(
    "vectors",
    [
        np.ones((NUM_TEXTS, 512), np.float64),
        np.ones((NUM_TEXTS, 511), np.float32),
        np.ones((NUM_TEXTS - 1, 512), np.float32),
        np.array(["pickled"] * NUM_TEXTS, object),
    ],
    ids=["of another type", "too narrow", "too few", "pickled"],
)
def test_vectors_that_do_not_fit_are_made_again_though_their_hash_is_right(
    folder: Path, vectors: np.ndarray[Any, Any], caplog: pytest.LogCaptureFixture
) -> None:
    np.save(folder / VECTORS, vectors)
    change_record(folder, vectors_sha256=file_sha256(folder / VECTORS))
    assert len(reopen(folder)[0]) == NUM_TEXTS
    assert "made again" in caplog.text


def test_a_graph_that_cannot_be_read_is_made_again_though_its_hash_is_right(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    DAMAGES["truncated"](folder / GRAPH)
    change_record(folder, graph_sha256=file_sha256(folder / GRAPH))
    assert reopen(folder) == ([], True)
    assert "made again" in caplog.text
    assert reopen(folder) == ([], False)


def test_the_index_of_another_world_gives_what_it_has_in_common(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where a world was replaced by another in the same folder."""
    embedded, is_new = reopen(folder, [*lore(7), *lore(2, "rook")])
    assert len(embedded) == 3
    assert is_new
    assert not caplog.records


@pytest.mark.parametrize("blocked", ["its parent is a file", *(RECORD, VECTORS, GRAPH, TRIGRAMS)])
def test_a_folder_that_cannot_be_written_costs_only_a_warning(
    tmp_path: Path, blocked: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Folders stand where files belong: root, who runs some tests, may write everywhere else."""
    folder = tmp_path / "index"
    if blocked in (RECORD, VECTORS, GRAPH, TRIGRAMS):
        (folder / blocked).mkdir(parents=True)
    else:
        folder.touch()
        folder /= "below"
    embedded, is_new = reopen(folder)
    assert (len(embedded), is_new) == (NUM_TEXTS, True)
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert "the world's index is not kept" in caplog.text
    assert not [*tmp_path.rglob(".*")]  # nothing half-written is left


def test_a_folder_that_cannot_even_be_looked_into_costs_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A name too long stands for a folder of another user: root may look into those."""
    embedded, is_new = reopen(tmp_path / ("x" * 300))
    assert (len(embedded), is_new) == (NUM_TEXTS, True)
    assert "the world's index is not kept" in caplog.text


def test_a_graph_that_cannot_be_saved_costs_only_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """hnswlib, not Python, writes that file, and does not say when it cannot."""
    monkeypatch.setattr(index_store, "GRAPH", "no folder/notes.hnsw")
    embedded, is_new = reopen(tmp_path)
    assert (len(embedded), is_new) == (NUM_TEXTS, True)
    assert "the world's index is not kept" in caplog.text
    assert not [*tmp_path.iterdir()]


def test_without_a_folder_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        _, report = open_index(DOCUMENTS, GramEmbedder())
        assert report == IndexReport(NUM_TEXTS, NUM_TEXTS, is_graph_new=True)
    assert not [*tmp_path.iterdir()]


def test_progress_is_told_up_to_the_last_text_that_must_be_embedded(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    documents = lore(150)
    open_index(documents[:20], GramEmbedder(), tmp_path)
    open_index(documents, GramEmbedder(), tmp_path, lambda done, of: told.append((done, of)))
    assert {of for _, of in told} == {130}
    assert [done for done, _ in told] == sorted({done for done, _ in told})
    assert told[-1] == (130, 130)
    assert len(told) > 1
    told.clear()
    open_index(documents, GramEmbedder(), tmp_path, lambda done, of: told.append((done, of)))
    assert told == []


def test_more_texts_than_are_embedded_at_once_are_all_right(tmp_path: Path) -> None:
    documents = [document for npc in ("any", "mina") for document in lore(100, npc)]
    assert reopen(tmp_path, documents[::2])[1]
    embedded, _ = reopen(tmp_path, documents)  # old and new rows in turn
    assert len(embedded) == 100


def test_a_graph_made_by_all_cores_finds_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_store, "_MANY", 1)
    assert reopen(tmp_path)[1]
    assert reopen(tmp_path) == ([], False)


@pytest.mark.parametrize("documents", [[], DOCUMENTS[-1:]], ids=["nothing", "no notes"])
def test_a_world_without_notes_has_an_index_too(tmp_path: Path, documents: list[Document]) -> None:
    assert len(reopen(tmp_path, documents)[0]) == len(documents)
    assert reopen(tmp_path, documents) == ([], False)


def test_trigrams_of_other_passages_are_not_used(folder: Path) -> None:
    change_record(folder, trigrams="0" * 64)
    assert reopen(folder) == ([], False)
    assert json.loads((folder / RECORD).read_bytes())["trigrams"] != "0" * 64


def test_the_same_texts_in_other_documents_have_other_trigrams(folder: Path) -> None:
    split = [*DOCUMENTS[:-2], Questions(id="q", about="mina.1", questions=ASKED), DOCUMENTS[-1]]
    assert reopen(folder, split)[0] == []


def test_each_world_and_encoder_has_a_folder_of_its_own_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    first = index_folder(tmp_path / "world", "encoder")
    assert first.is_relative_to(tmp_path / "cache")
    assert first == index_folder(tmp_path / "other" / ".." / "world", "encoder")
    others = [
        index_folder(tmp_path / "world", "encoder 2"),
        index_folder(tmp_path / "world 2", "encoder"),
    ]
    assert len({first, *others}) == 3
