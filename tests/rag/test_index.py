"""Both searches of a world, against comparing everything with everything."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import pytest

from rag import index as index_module
from rag.documents import Document, ForbiddenTriggerList, ForbiddenTriggers, Lore, Questions
from rag.embedder import Embedder
from rag.index import NO_LETTERS, NUM_BEST, NUM_PASSAGES, Letters, Match, Vector, WorldIndex
from rag.index_store import open_index
from rag.searchable import is_of, searchable
from tests.rag.fake_embedder import TableEmbedder, at_cosine, random_table

NUM_NPCS, NUM_TOLD, DIM = 30, 25, 32
NPCS = [f"npc{number:02}" for number in range(NUM_NPCS)]


def make_index(documents: Sequence[Document], embedder: Embedder) -> WorldIndex:
    return open_index(documents, embedder)[0]


def asked(name: str, *questions: str, npc_id: str = "mina") -> list[Document]:
    """A document of that name and text, and what is asked about it."""
    told = Lore(id=name, npc_id=npc_id, content=name)
    if not questions:
        return [told]
    return [told, Questions(id=f"{name}?", about=name, questions=[*questions])]


def random_documents(npcs: Iterable[str], num_each: int) -> list[Document]:
    """Documents of one to five passages each."""
    return [
        document
        for npc in npcs
        for number in range(num_each)
        for document in asked(
            f"{npc}.{number}", *(f"{npc}.{number}?{k}" for k in range(number % 5)), npc_id=npc
        )
    ]


def random_index(documents: Sequence[Document], seed: int = 0) -> WorldIndex:
    return make_index(documents, random_table(searchable(documents).texts(), DIM, seed))


def random_vectors(count: int, seed: int = 1) -> list[Vector]:
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    return list(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def scores_by_hand(
    index: WorldIndex, documents: Sequence[Document], npc_id: str, vector: Vector
) -> dict[str, float]:
    """The mean of each document's best passages; all beyond NUM_PASSAGES are worth the last."""
    cosines = [
        (passage.document.id, float(index.vectors([passage.text])[0] @ vector))
        for passage in searchable(documents).notes
        if is_of(passage.document, npc_id)
    ]
    floor = sorted((cosine for _, cosine in cosines), reverse=True)[:NUM_PASSAGES][-1]
    of_document: dict[str, list[float]] = defaultdict(list)
    for name, cosine in cosines:
        of_document[name].append(cosine)
    return {
        name: float(np.mean(sorted((max(c, floor) for c in found), reverse=True)[:NUM_BEST]))
        for name, found in of_document.items()
        if max(found) >= floor
    }


@pytest.mark.parametrize("num_each", [1, 4, 9, 40])  # 1 to 120 passages each
def test_near_is_what_comparing_everything_finds(num_each: int) -> None:
    documents = random_documents(["any", "mina", "rook"], num_each)
    index = random_index(documents)
    for vector in random_vectors(10):
        expected = scores_by_hand(index, documents, "mina", vector)
        best = sorted(expected, key=lambda name: -expected[name])
        matches = index.near(vector, "mina", limit=len(documents))
        assert [match.document.id for match in matches] == best
        scores = [match.score for match in matches]
        np.testing.assert_allclose(scores, [expected[name] for name in best], atol=1e-5)
        assert index.near(vector, "mina", limit=3) == matches[:3]


def test_near_is_right_where_documents_share_texts() -> None:
    documents: list[Document] = [
        *asked("lamp", "Good day.", "Light?"),
        *asked("rope", "Good day.", "Knot?"),
        *asked("bell", "Good day.", npc_id="any"),
    ]
    index = random_index(documents)
    for vector in random_vectors(10):
        expected = scores_by_hand(index, documents, "mina", vector)
        found = {m.document.id: m.score for m in index.near(vector, "mina", limit=9)}
        assert found == pytest.approx(expected, abs=1e-5)


def test_the_score_of_a_document_is_the_mean_of_its_best_three_passages() -> None:
    lucky = dict(zip(("lucky", "l1", "l2", "l3"), (0.9, 0.1, 0.0, -0.8), strict=True))
    steady = dict(zip(("steady", "s1", "s2", "s3"), (0.5, 0.6, 0.7, -0.9), strict=True))
    table = {text: at_cosine(cosine) for text, cosine in {**lucky, **steady}.items()}
    documents = [*asked("lucky", "l1", "l2", "l3"), *asked("steady", "s1", "s2", "s3")]
    first, second = make_index(documents, TableEmbedder(table)).near(
        np.array([1, 0], np.float32), "mina", limit=2
    )
    assert (first.document.id, first.passage) == ("steady", "s2")
    assert first.score == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert (second.document.id, second.passage) == ("lucky", "lucky")
    assert second.score == pytest.approx((0.9 + 0.1 + 0.0) / 3)


def test_a_document_of_fewer_passages_is_worth_the_mean_of_those_it_has() -> None:
    table = {"one": at_cosine(0.6), "two": at_cosine(0.5), "t": at_cosine(0.9)}
    matches = make_index([*asked("one"), *asked("two", "t")], TableEmbedder(table)).near(
        np.array([1, 0], np.float32), "mina", limit=2
    )
    assert {match.document.id: match.score for match in matches} == pytest.approx(
        {"two": 0.7, "one": 0.6}
    )


def test_letters_that_a_document_shares_with_what_was_said_count_besides() -> None:
    table = {"The lamp is out.": at_cosine(0.5), "A bell.": at_cosine(0.52)}
    index = make_index([*asked("The lamp is out."), *asked("A bell.")], TableEmbedder(table))
    vector, said = np.array([1, 0], np.float32), "Who lit the lamp?"

    def near(letters: Letters) -> list[Match]:
        return index.near(vector, "mina", 2, letters=letters)

    def search(letters: Letters) -> list[Match]:
        return index.search(vector, 2, letters=letters)

    for find in (near, search):
        plain = {match.document.id: match.score for match in find(NO_LETTERS)}
        assert [*plain] == ["A bell.", "The lamp is out."]
        for weight in (0.001, 0.5):
            matches = find(Letters(said, weight))
            assert {match.document.id: match.score for match in matches} == plain
            shared = {match.document.id: match.letters / weight for match in matches}
            assert shared["The lamp is out."] > 0.1
            assert shared["A bell."] == 0
        assert [match.document.id for match in matches] == ["The lamp is out.", "A bell."]


def test_near_finds_an_npcs_own_notes_and_everybodys_alone() -> None:
    index = random_index(random_documents(["any", "mina", "rook"], 3))
    (vector,) = random_vectors(1)
    assert {m.document.npc_id for m in index.near(vector, "mina", 99)} == {"any", "mina"}
    assert {m.document.npc_id for m in index.near(vector, "nobody", 99)} == {"any"}


def test_what_is_not_wanted_takes_no_place_among_the_nearest() -> None:
    index = random_index(random_documents(["mina"], 12))
    (vector,) = random_vectors(1)
    every = index.near(vector, "mina", 99)
    unwanted = {match.document.id for match in every[:5]}
    found = index.near(vector, "mina", 4, index.those(lambda note: note.id not in unwanted))
    assert found == every[5:9]


def test_however_much_is_not_wanted_what_is_wanted_is_found() -> None:
    secrets = [f"secret {number}" for number in range(NUM_PASSAGES)]
    table = {"open": at_cosine(0.8), "later": at_cosine(0.9)} | dict.fromkeys(
        secrets, at_cosine(0.9)
    )
    index = make_index([*asked("open"), *asked("later", *secrets)], TableEmbedder(table))
    vector = np.array([1, 0], np.float32)
    found = index.near(vector, "mina", 4, index.those(lambda note: note.id != "later"))
    assert [match.document.id for match in found] == ["open"]


@pytest.fixture(scope="module")
def world() -> list[Document]:
    """Over two thousand passages: more than the graph looks at on one walk."""
    return random_documents(NPCS, NUM_TOLD)


@pytest.fixture(scope="module")
def large(world: list[Document]) -> WorldIndex:
    return random_index(world)


def recall(found: Sequence[int], exact: Sequence[int]) -> float:
    return len(set(found) & set(exact)) / len(exact)


def test_the_graph_finds_what_comparing_everything_finds(large: WorldIndex) -> None:
    recalls = []
    for vector in random_vectors(50):
        numbers, cosines = large.passages(vector, 10)
        assert (np.diff(cosines) <= 1e-6).all()
        recalls.append(recall(numbers.tolist(), large.exact(vector, 10)[0].tolist()))
    assert np.mean(recalls) >= 0.95


@pytest.mark.parametrize("few_rows", [0, 4_096])
@pytest.mark.parametrize("npcs", [["npc03"], ["npc03", "npc17", "npc29", "nobody"], NPCS])
def test_among_some_npcs_it_finds_what_comparing_all_of_theirs_finds(
    large: WorldIndex,
    world: list[Document],
    monkeypatch: pytest.MonkeyPatch,
    npcs: list[str],
    few_rows: int,
) -> None:
    """By the graph with a filter, and by comparing all where that is little."""
    monkeypatch.setattr(index_module, "_FEW_ROWS", few_rows)
    notes = searchable(world).notes
    allowed = {n for n, passage in enumerate(notes) if passage.document.npc_id in npcs}
    recalls = []
    for vector in random_vectors(20):
        numbers, cosines = large.passages(vector, 10, npcs)
        assert (np.diff(cosines) <= 1e-6).all()
        ranked = large.exact(vector, large.num_passages)[0].tolist()
        best = [number for number in ranked if number in allowed][:10]
        assert len(numbers) == len(best)
        assert set(numbers.tolist()) <= allowed
        recalls.append(recall(numbers.tolist(), best))
    assert np.mean(recalls) >= (0.95 if few_rows == 0 else 1)


@pytest.mark.parametrize("few_rows", [0, 4_096])
def test_the_little_that_an_npc_has_is_found_in_however_large_a_world(
    world: list[Document], monkeypatch: pytest.MonkeyPatch, few_rows: int
) -> None:
    monkeypatch.setattr(index_module, "_FEW_ROWS", few_rows)
    index = random_index([*world, *asked("hermit", "Alone?", npc_id="hermit")])
    for vector in random_vectors(5):
        (match,) = index.search(vector, 5, ["hermit"])
        assert match.document.id == "hermit"
        both = index.vectors(["hermit", "Alone?"]) @ vector
        assert match.score == pytest.approx(both.mean(), abs=1e-5)


def test_search_ranks_documents_as_near_does(large: WorldIndex) -> None:
    for vector in random_vectors(10):
        near = large.near(vector, "npc05", 5)
        found = large.search(vector, 5, ["npc05"])
        assert [match.document.id for match in found] == [match.document.id for match in near]


def test_search_finds_a_document_by_each_of_its_passages(large: WorldIndex) -> None:
    for text in ("npc07.4", "npc07.4?0", "npc20.13?2"):
        (best,) = large.search(large.vectors([text])[0], 1)
        assert (best.document.id, best.passage) == (text.split("?")[0], text)


def test_an_npc_without_notes_finds_none(large: WorldIndex) -> None:
    (vector,) = random_vectors(1)
    assert large.search(vector, 5, ["nobody"]) == []
    assert large.search(vector, 5, []) == []
    assert large.near(vector, "nobody", 5) == []


def test_asking_for_more_than_there_is_gives_all_there_is() -> None:
    documents = random_documents(["mina", "rook"], 3)
    index = random_index(documents)
    (vector,) = random_vectors(1)
    names = {passage.document.id for passage in searchable(documents).notes}
    assert {match.document.id for match in index.search(vector, 999)} == names
    assert len(index.passages(vector, 999)[0]) == index.num_passages == 12
    assert len(index.exact(vector, 999)[0]) == 12


@pytest.mark.parametrize("npcs", [None, ["mina"]])
def test_documents_that_mean_the_same_are_all_found(
    monkeypatch: pytest.MonkeyPatch, npcs: list[str] | None
) -> None:
    """hnswlib's walk doesn't reach all of them."""
    monkeypatch.setattr(index_module, "_FEW_ROWS", 0)
    names = [f"note {number}" for number in range(3_000)]
    documents = [document for name in names for document in asked(name)]
    index = make_index(documents, TableEmbedder(dict.fromkeys(names, at_cosine(0.5))))
    found = index.search(np.array([1, 0], np.float32), len(names), npcs)
    assert {match.document.id for match in found} == {*names}
    assert [match.score for match in found] == pytest.approx([0.5] * len(names), abs=1e-5)


def test_a_world_without_notes_finds_none() -> None:
    triggers = ForbiddenTriggers(text=["I will burn it."])
    documents = [ForbiddenTriggerList(id="f", triggers=triggers)]
    index = random_index(documents)
    (vector,) = random_vectors(1)
    assert index.num_passages == 0
    assert index.near(vector, "mina", 5) == index.search(vector, 5) == []
    assert index.search(vector, 5, ["mina"]) == []


def test_the_nearest_of_some_texts_is_told_with_its_cosine() -> None:
    texts = ["far", "near", "nearer still"]
    table = dict(zip(texts, map(at_cosine, (-0.5, 0.4, 0.9)), strict=True))
    triggers = ForbiddenTriggers(text=texts)
    index = make_index([ForbiddenTriggerList(id="f", triggers=triggers)], TableEmbedder(table))
    vector = np.array([1, 0], np.float32)
    for asked_of, cosine, nearest in ((texts[:2], 0.4, "near"), (texts, 0.9, "nearer still")):
        found, text = index.nearest(vector, asked_of)
        assert text == nearest
        assert found == pytest.approx(cosine)
    assert index.nearest(vector, []) == (-1.0, "")


def test_a_text_that_the_world_lacks_has_no_vector(large: WorldIndex) -> None:
    with pytest.raises(KeyError, match="never written"):
        large.vectors(["npc00.0", "never written"])
