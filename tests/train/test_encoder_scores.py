"""What recall counts."""

from rag.calibration import Calibration
from rag.documents import Description, DialogueTurn, Document, Lore
from rag.index_store import open_index
from rag.retriever import Retriever
from tests.rag.fake_embedder import GramEmbedder
from train.encoder_data import Query
from train.encoder_scores import Recall, retrieval_scores

SAID = "Who rang the bell?"


def test_recall_within_an_npc_is_of_all_that_is_labelled_and_of_its_lore_alone() -> None:
    documents: list[Document] = [
        *(Description(id=f"d{n}", npc_id="mina", content=f"{SAID}{n}") for n in range(3)),
        *(DialogueTurn(id=f"t{n}", npc_id="mina", player=SAID, npc="I.") for n in range(3)),
        Lore(id="lore", npc_id="mina", content="The bell."),
    ]
    embedder = GramEmbedder()
    index, _ = open_index(documents, embedder)
    calibration = Calibration(embedder=embedder.id, note=0.5, same=0.9)
    asked = {"query": SAID, "lang": "en", "scope": "npc", "npc_id": "mina"}
    queries = [
        Query(**asked, relevant=["lore"]),  # type: ignore[arg-type]
        Query(**asked, relevant=["d0", "lore"]),  # type: ignore[arg-type]
    ]
    scores = retrieval_scores(Retriever(embedder, index, calibration), queries)
    assert scores["within an NPC, 3"] == Recall(recall=0.25, hit=0.5, num_queries=2)
    assert scores["within an NPC, 3 of lore"] == Recall(recall=0.75, hit=1.0, num_queries=2)
    assert scores["within an NPC, 3, en"] == scores["within an NPC, 3"]
