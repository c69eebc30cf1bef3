"""Keeps a world's vectors and graph on disk: texts that were embedded before never are again.

    index.json     which texts, of which encoder, in which order; hashes of the others
    vectors.npy    float32 [n_texts, dim]
    notes.hnsw     the graph over the notes' passages
    trigrams.npz   which trigrams the notes have

A folder belongs to one world and one encoder. Each file is written beside and renamed, the record
last: whatever does not agree with it is not trusted but made again.
"""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hnswlib
import msgspec
import numpy as np

from heads.bundle import Sha256, cache_folder, file_sha256
from rag.documents import Document
from rag.embedder import Embedder, Vectors, Version
from rag.index import GRAPH_EFFORT, GRAPH_LINKS, WorldIndex, make_graph
from rag.searchable import searchable
from rag.trigrams import TrigramIndex
from runtime.host import without_collections

logger = logging.getLogger(__name__)

FORMAT = 3
RECORD, VECTORS, GRAPH = "index.json", "vectors.npy", "notes.hnsw"
TRIGRAMS = "trigrams.npz"
_STEP = 64
"""Texts between two reports of progress."""
_MANY = 5_000
"""From so many passages on the graph is built by all cores; below, one makes the same each time."""

OnProgress = Callable[[int, int], None]
"""Called with the number of texts embedded so far, and of all that must be."""


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    format: int
    embedder: str
    graph: str
    """What the graph was made of and how; another means another graph."""
    trigrams: str
    """What they were found in; in other passages they are others."""
    vectors_sha256: Sha256
    graph_sha256: Sha256
    trigrams_sha256: Sha256
    texts: list[str]
    """Hashes of the texts, in the order of the rows."""


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What opening an index took."""

    num_texts: int
    num_embedded: int
    is_graph_new: bool


def index_folder(world: Path, embedder_id: str) -> Path:
    """Where the index of a world and an encoder is kept, under the user's cache."""
    key = f"{world.resolve()}\n{embedder_id}"
    return cache_folder() / "indexes" / hashlib.sha256(key.encode()).hexdigest()[:20]


@without_collections()
def open_index(
    documents: Sequence[Document],
    embedder: Embedder,
    folder: Path | None = None,
    on_progress: OnProgress = lambda _done, _all: None,
) -> tuple[WorldIndex, IndexReport]:
    """The index of `documents`; what `folder` keeps is used, what it lacks is made and kept there.

    A folder that cannot be written costs a warning and the next start's time, nothing else.
    """
    content = searchable(documents)
    texts = content.texts()
    names = [_text_hash(text) for text in texts]
    kept = _read(folder, embedder) if folder else None
    vectors, num_embedded = _vectors(
        dict(zip(names, texts, strict=True)), kept, embedder, on_progress
    )
    num_notes = len({passage.text for passage in content.notes})
    graph_name = _graph_name(names[:num_notes], embedder)
    graph = kept.load_graph(graph_name, num_notes, embedder.dim) if kept else None
    is_new = graph is None
    if graph is None:
        graph = make_graph(vectors[:num_notes], -1 if num_notes >= _MANY else 1)
    passages = content.by_document()
    trigrams_name = _trigrams_name(passages, dict(zip(texts, names, strict=True)))
    trigrams = kept.load_trigrams(trigrams_name) if kept else None
    are_trigrams_new = trigrams is None
    if trigrams is None:
        trigrams = TrigramIndex.of(passages)
    index = WorldIndex(content, texts, vectors, graph, trigrams)
    is_other = is_new or are_trigrams_new or num_embedded or not kept or kept.names != names
    if folder and is_other:
        try:
            made = _Made(embedder.id, graph_name, trigrams_name, names, vectors, graph, trigrams)
            _write(folder, made)
        except OSError as error:
            logger.warning("the world's index is not kept: %s", error)
    return index, IndexReport(len(texts), num_embedded, is_new)


def _text_hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _graph_name(passages: Sequence[str], embedder: Embedder) -> str:
    parts = (embedder.id, str(GRAPH_LINKS), str(GRAPH_EFFORT), *passages)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _trigrams_name(documents: Sequence[Sequence[str]], hash_of: Mapping[str, str]) -> str:
    lines = (" ".join(hash_of[text] for text in passages) for passages in documents)
    return hashlib.sha256("\n".join((TrigramIndex.recipe, *lines)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a folder holds, verified but for graph and trigrams."""

    folder: Path
    record: _Record
    vectors: Vectors

    @property
    def names(self) -> list[str]:
        return self.record.texts

    def load_graph(self, name: str, count: int, dim: int) -> hnswlib.Index | None:
        path = self.folder / GRAPH
        if self.record.graph != name:
            return None
        try:
            _verify(path, self.record.graph_sha256)
            graph = hnswlib.Index(space="ip", dim=dim)
            graph.load_index(str(path), max_elements=max(1, count))
        except (OSError, RuntimeError, ValueError) as error:
            logger.warning("%s is made again: %s", path, error)
            return None
        return graph

    def load_trigrams(self, name: str) -> TrigramIndex | None:
        path = self.folder / TRIGRAMS
        if self.record.trigrams != name:
            return None
        try:
            _verify(path, self.record.trigrams_sha256)
            with np.load(path, allow_pickle=False) as arrays:
                return TrigramIndex(arrays["starts"], arrays["codes"], arrays["weights"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            logger.warning("%s is made again: %s", path, error)
            return None


def _verify(path: Path, sha256: Sha256) -> None:
    """Raises OSError, or ValueError for another file than was written."""
    if file_sha256(path) != sha256:
        raise ValueError("its hash is not the record's")


def _read(folder: Path, embedder: Embedder) -> _Kept | None:
    """What `folder` keeps for this encoder; None if that is nothing, or broken."""
    path = folder / RECORD
    try:
        raw = path.read_bytes()
        if msgspec.json.decode(raw, type=Version).format != FORMAT:
            return None
        record = msgspec.json.decode(raw, type=_Record)
        if record.embedder != embedder.id:
            return None
        if file_sha256(folder / VECTORS) != record.vectors_sha256:
            raise ValueError(f"the hash of {VECTORS} is not the record's")
        vectors = np.load(folder / VECTORS, allow_pickle=False)
        if vectors.shape != (len(record.texts), embedder.dim) or vectors.dtype != np.float32:
            raise ValueError(f"{VECTORS} holds {vectors.dtype} {vectors.shape}")
    except (OSError, ValueError, msgspec.DecodeError, UnicodeDecodeError) as error:
        is_missing = isinstance(error, FileNotFoundError) and error.filename == str(path)
        if is_missing:
            return None
        logger.warning("the index in %s is made again: %s", folder, error)
        return None
    return _Kept(folder, record, vectors)


def _vectors(
    texts: Mapping[str, str], kept: _Kept | None, embedder: Embedder, on_progress: OnProgress
) -> tuple[Vectors, int]:
    """Vectors of all texts (by their hashes), in order, and how many of them had to be made."""
    if kept and kept.names == [*texts]:
        return kept.vectors, 0
    known = {name: row for row, name in enumerate(kept.names)} if kept else {}
    vectors = np.empty((len(texts), embedder.dim), np.float32)
    missing: list[int] = []
    for row, name in enumerate(texts):
        if kept and name in known:
            vectors[row] = kept.vectors[known[name]]
        else:
            missing.append(row)
    in_order = list(texts.values())
    for start in range(0, len(missing), _STEP):
        rows = missing[start : start + _STEP]
        vectors[rows] = embedder.encode([in_order[row] for row in rows])
        on_progress(start + len(rows), len(missing))
    return vectors, len(missing)


@dataclass(frozen=True, slots=True)
class _Made:
    """What is to be kept."""

    embedder: str
    graph_name: str
    trigrams_name: str
    names: list[str]
    vectors: Vectors
    graph: hnswlib.Index
    trigrams: TrigramIndex


def _write(folder: Path, made: _Made) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    beside = {
        name: folder / f".{name}.{os.getpid()}" for name in (VECTORS, GRAPH, TRIGRAMS, RECORD)
    }
    try:
        with beside[VECTORS].open("wb") as file:
            np.save(file, made.vectors)
        _save_graph(made.graph, beside[GRAPH])
        with beside[TRIGRAMS].open("wb") as file:
            trigrams = made.trigrams
            np.savez(file, starts=trigrams.starts, codes=trigrams.codes, weights=trigrams.weights)
        record = _Record(
            format=FORMAT,
            embedder=made.embedder,
            graph=made.graph_name,
            trigrams=made.trigrams_name,
            vectors_sha256=file_sha256(beside[VECTORS]),
            graph_sha256=file_sha256(beside[GRAPH]),
            trigrams_sha256=file_sha256(beside[TRIGRAMS]),
            texts=made.names,
        )
        beside[RECORD].write_bytes(msgspec.json.encode(record))
        for name, path in beside.items():
            path.replace(folder / name)
    finally:
        for path in beside.values():
            path.unlink(missing_ok=True)


def _save_graph(graph: hnswlib.Index, path: Path) -> None:
    graph.save_index(str(path))
    if path.stat().st_size != graph.index_file_size():  # hnswlib says nothing of a full disk
        raise OSError(f"{path}: was not written as a whole")
