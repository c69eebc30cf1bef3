"""The vectors of a world, kept on disk by content, and the two ways to search them.

Inside one NPC's documents the search is exact; over the whole world it goes by an hnswlib graph.
A document is found by its own text and by the questions that are asked of it: its score is the mean
of its best passages, which one lucky match alone cannot win. Among the documents found so, the
letters that they share with what was said count besides.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import hnswlib
import msgspec
import numpy as np
import numpy.typing as npt

from rag.documents import ANY
from rag.embedder import Vectors
from rag.searchable import Note, Searchable
from rag.trigrams import TrigramIndex

Rows = npt.NDArray[np.int64]
Vector = npt.NDArray[np.float32]
Wanted = Callable[[Rows], npt.NDArray[np.bool_]]
"""Which of these documents, by their places in `WorldIndex.documents`, may be found."""

NUM_BEST = 3
"""Passages whose mean is a document's score (docs/retrieval.md has what other numbers recall)."""
NUM_PASSAGES = 64
"""Passages that are looked at; a document's others count as if they were the last of these."""
GRAPH_LINKS, GRAPH_EFFORT, SEARCH_EFFORT = 16, 200, 400
"""hnswlib's M, ef_construction and ef. Of the ten nearest of 115,000 passages an ef of 128 finds
0.975 and one of 400 finds 0.993, in 0.2 and 0.4 ms (`persona bench rag`).
"""
_NUM_RANKED = 16
"""Documents, those with the nearest passages, of which letters are compared."""
_FEW_ROWS = 4_096
"""Up to so many allowed passages comparing them all is faster than a filtered walk of the graph."""
_MANY = 4
"""Of so many times as many values as are wanted, those are put aside before they are sorted."""


@dataclass(frozen=True, slots=True)
class Letters:
    """What was said, and what the letters that a document shares with it weigh beside cosines."""

    text: str = ""
    weight: float = 0.0


NO_LETTERS = Letters()
"""Only the vector counts."""


class Match(msgspec.Struct, frozen=True):
    """A document, how near it is (a mean cosine), its nearest passage, and what letters add.

    Matches are in order of `score` and `letters` together; how near one is, its score says alone,
    for what letters are worth depends on how many documents there are.
    """

    document: Note
    score: float
    passage: str
    nearest: float
    """The cosine of `passage`."""
    letters: float = 0.0


class WorldIndex:
    """A world's vectors. Build it with `rag.index_store.open_index`.

    `vectors` float32 [n_texts, dim] are unit vectors of `texts`, whose first are the distinct texts
    of the notes; `graph` holds those by their row. (Passages with the same text would hide each
    other in it.) `trigrams` knows the documents by their place in `documents`.
    """

    def __init__(
        self,
        content: Searchable,
        texts: Sequence[str],
        vectors: Vectors,
        graph: hnswlib.Index,
        trigrams: TrigramIndex,
    ) -> None:
        self._notes = content.notes
        self._trigrams = trigrams
        self._row_of = {text: row for row, text in enumerate(texts)}
        self._vectors = vectors
        rows = self.rows(passage.text for passage in self._notes)
        is_plain = bool(len(rows)) and bool((rows == np.arange(len(rows))).all())
        self._note_vectors = vectors[: len(rows)] if is_plain else vectors[rows]
        self._graph = graph
        self._graph.set_ef(SEARCH_EFFORT)
        self._by_row = np.argsort(rows, kind="stable")
        num_rows = int(rows.max()) + 1 if len(rows) else 0
        self._starts = np.searchsorted(rows[self._by_row], np.arange(num_rows + 1))
        numbers: dict[str, list[int]] = defaultdict(list)
        for number, passage in enumerate(self._notes):
            numbers[passage.document.npc_id].append(number)
        documents = {id(passage.document): passage.document for passage in self._notes}
        at = {name: place for place, name in enumerate(documents)}
        self._documents = [*documents.values()]
        self._numbers = np.arange(len(self._notes))
        self._document_rows = np.array(
            [at[id(passage.document)] for passage in self._notes], np.int64
        )
        self._sizes = np.bincount(self._document_rows, minlength=len(documents))
        self._by_npc = {npc: slice(group[0], group[-1] + 1) for npc, group in numbers.items()}

    @property
    def num_passages(self) -> int:
        """Texts under which documents are found."""
        return len(self._notes)

    @property
    def documents(self) -> Sequence[Note]:
        """What can be found, each once."""
        return self._documents

    def rows(self, texts: Iterable[str]) -> Rows:
        """Where the vectors of `texts` are. Raises KeyError for a text that the world lacks."""
        return np.fromiter((self._row_of[text] for text in texts), np.int64)

    def vectors(self, texts: Iterable[str]) -> Vectors:
        """The vectors of the world's `texts`, float32 [n, dim]."""
        return self._vectors[self.rows(texts)]

    def nearest(self, vector: Vector, texts: Sequence[str]) -> tuple[float, str]:
        """The cosine and the text of whichever of the world's `texts` is nearest; (-1, "")."""
        if not texts:
            return -1.0, ""
        cosines = self.vectors(texts) @ vector
        best = int(cosines.argmax())
        return float(cosines[best]), texts[best]

    def near(
        self,
        vector: Vector,
        npc_id: str,
        limit: int,
        wanted: Wanted | None = None,
        letters: Letters = NO_LETTERS,
    ) -> list[Match]:
        """The `limit` best of an NPC's own notes and everybody's, compared with all of them."""
        parts = [self._by_npc[npc] for npc in dict.fromkeys((npc_id, ANY)) if npc in self._by_npc]
        if not parts:
            return []
        numbers, cosines = self._numbers_of(parts), self._cosines(parts, vector)
        if wanted:
            kept = wanted(self._document_rows[numbers])
            numbers, cosines = numbers[kept], cosines[kept]
        return self._matches(*_largest(numbers, cosines, NUM_PASSAGES), limit, letters)

    def those(self, is_wanted: Callable[[Note], bool]) -> Wanted:
        """The documents of which `is_wanted` says so, one by one."""
        return lambda rows: np.array([is_wanted(self._documents[row]) for row in rows], bool)

    def search(
        self,
        vector: Vector,
        limit: int,
        npcs: Collection[str] | None = None,
        is_wanted: Callable[[Note], bool] = lambda _: True,
        letters: Letters = NO_LETTERS,
    ) -> list[Match]:
        """The `limit` best notes of the world, or of `npcs` alone, by the graph; best first."""
        found = self.passages(vector, max(NUM_PASSAGES, limit), npcs)
        matches = self._matches(*found, len(found[0]), letters)
        return [match for match in matches if is_wanted(match.document)][:limit]

    def passages(
        self, vector: Vector, limit: int, npcs: Collection[str] | None = None
    ) -> tuple[Rows, Vector]:
        """`(numbers, cosines)` of the nearest passages, best first."""
        if npcs is None:
            return self._walk(vector, min(limit, len(self._notes)), None)
        parts = [self._by_npc[npc] for npc in npcs if npc in self._by_npc]
        count = sum(part.stop - part.start for part in parts)
        if count == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        if count <= _FEW_ROWS:
            return _largest(self._numbers_of(parts), self._cosines(parts, vector), limit)
        is_allowed = np.zeros(len(self._notes), bool)
        for part in parts:
            is_allowed[part] = True
        return self._walk(vector, min(limit, count), is_allowed)

    def exact(self, vector: Vector, limit: int) -> tuple[Rows, Vector]:
        """What `passages` approximates, by comparing every passage: for measurements."""
        return _largest(self._numbers, self._note_vectors @ vector, limit)

    def _numbers_of(self, parts: Sequence[slice]) -> Rows:
        """All passages of these parts, in their order."""
        return np.concatenate([self._numbers[part] for part in parts])

    def _cosines(self, parts: Sequence[slice], vector: Vector) -> Vector:
        """How near each of them is, in the same order."""
        return np.concatenate([self._note_vectors[part] @ vector for part in parts])

    def _walk(
        self, vector: Vector, limit: int, is_allowed: npt.NDArray[np.bool_] | None
    ) -> tuple[Rows, Vector]:
        """The graph's answer; with a filter, enough is fetched for what the filter leaves."""
        if limit == 0:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        num_rows = len(self._starts) - 1
        wanted = min(num_rows, limit if is_allowed is None else max(limit, SEARCH_EFFORT))
        while True:
            self._graph.set_ef(max(SEARCH_EFFORT, wanted))
            try:
                labels, distances = self._graph.knn_query(vector, k=wanted, num_threads=1)
            except RuntimeError:  # among near duplicates the walk reaches fewer than it is to find
                allowed = self._numbers if is_allowed is None else np.flatnonzero(is_allowed)
                return _largest(allowed, self._note_vectors[allowed] @ vector, limit)
            numbers, counts = self._with_texts(labels[0].astype(np.int64))
            cosines = np.repeat(1 - distances[0], counts)
            if is_allowed is not None:
                kept = is_allowed[numbers]
                numbers, cosines = numbers[kept], cosines[kept]
            if len(numbers) >= limit or wanted == num_rows:
                return numbers[:limit], cosines[:limit]
            wanted = min(num_rows, wanted * 4)

    def _with_texts(self, rows: Rows) -> tuple[Rows, Rows]:
        """The passages that have the texts of these rows, in order, and how many each text has."""
        starts = self._starts[rows]
        counts = self._starts[rows + 1] - starts
        shifts = np.repeat(starts - counts.cumsum() + counts, counts)
        return self._by_row[np.arange(len(shifts)) + shifts], counts

    def _matches(self, numbers: Rows, cosines: Vector, limit: int, letters: Letters) -> list[Match]:
        """Documents by the mean of their best passages among the ranked ones, and by letters."""
        best: dict[int, list[float]] = {}
        nearest: dict[int, int] = {}
        values, found_in = cosines.tolist(), self._document_rows[numbers].tolist()
        for at, number, value in zip(found_in, numbers.tolist(), values, strict=True):
            found = best.get(at)
            if found is None:
                best[at], nearest[at] = [value], number
            elif len(found) < NUM_BEST:
                found.append(value)
        rows = [*best]
        shared = [0.0] * len(rows)
        if letters.weight:
            first = rows[:_NUM_RANKED]
            weights = letters.weight * self._trigrams.scores(letters.text, first)
            shared[: len(first)] = weights.tolist()
        counts = np.minimum(self._sizes[rows], NUM_BEST).tolist()
        scores = [
            (sum(found) + values[-1] * (count - len(found))) / count
            for found, count in zip(best.values(), counts, strict=True)
        ]
        order = sorted(range(len(rows)), key=lambda place: -(scores[place] + shared[place]))
        return [
            Match(
                self._documents[at := rows[place]],
                scores[place],
                self._notes[nearest[at]].text,
                best[at][0],
                shared[place],
            )
            for place in order[:limit]
        ]


def make_graph(vectors: Vectors, num_threads: int) -> hnswlib.Index:
    """A graph over all rows of `vectors`, float32 [n, dim], by inner product."""
    graph = hnswlib.Index(space="ip", dim=vectors.shape[1])
    graph.init_index(
        max(1, len(vectors)), M=GRAPH_LINKS, ef_construction=GRAPH_EFFORT, random_seed=1
    )
    if len(vectors):
        graph.add_items(vectors, num_threads=num_threads)
    return graph


def _largest(numbers: Rows, values: Vector, limit: int) -> tuple[Rows, Vector]:
    """The `limit` largest of `values` with their numbers, in falling order; ties as they came."""
    if len(values) > _MANY * limit:
        kept = np.sort(np.argpartition(-values, limit - 1)[:limit])
        numbers, values = numbers[kept], values[kept]
    order = np.argsort(-values, kind="stable")[:limit]
    return numbers[order], values[order]
