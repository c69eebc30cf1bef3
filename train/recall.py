"""What a turn calls to mind, as the server would find it."""

from collections.abc import Sequence
from pathlib import Path

from rag.calibration import read_calibration
from rag.documents import Document
from rag.embedder import NO_EMBEDDER, open_embedder
from rag.index_store import index_folder, open_index
from rag.retriever import NOTE_TOKENS, Retriever, fitting_notes, note_text
from rag.world import World
from runtime.encoder import PromptEncoder
from train.dataset import TurnLabel
from train.transcripts import Notes, TranscriptWriter, no_notes


def open_retriever(
    world: Path, documents: Sequence[Document], embedder_name: str, *, is_kept: bool = True
) -> Retriever:
    """A retriever over `documents`; `is_kept`: by the index that the server keeps of `world`.

    Raises EmbedderError.
    """
    embedder = open_embedder(embedder_name)
    calibration = read_calibration(embedder_name, embedder.id)
    folder = index_folder(world, embedder.id) if is_kept else None
    index, _ = open_index(documents, embedder, folder)
    return Retriever(embedder, index, calibration)


def open_writer(
    folder: Path, world: World, embedder_name: str, encoder: PromptEncoder
) -> TranscriptWriter:
    """Writes transcripts with the notes that retrieval shows; with the embedder `none`, without.

    Raises EmbedderError.
    """
    notes: Notes = no_notes
    if embedder_name != NO_EMBEDDER:
        notes = recalled(open_retriever(folder, world.documents, embedder_name), encoder)
    return TranscriptWriter(world, encoder, notes)


def recalled(retriever: Retriever, encoder: PromptEncoder) -> Notes:
    """The notes of a turn, within the budget that serving gives them by default."""

    def notes(label: TurnLabel) -> list[str]:
        vector = retriever.encode(label.player_utterance)
        ranked = retriever.notes(label.player_utterance, vector, label.facts.scene, label.lang)
        shown = fitting_notes(retriever.near(ranked, vector), label.lang, encoder, NOTE_TOKENS)
        return [note_text(match.document, label.lang) for match in shown]

    return notes
