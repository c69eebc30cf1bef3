"""Whether a turn has room for each note of a world."""

from collections.abc import Iterator, Sequence

from rag.book import Book
from rag.documents import DialogueTurn, Lang, Lore
from rag.loader import Problem, Source
from rag.retriever import note_text
from runtime.encoder import PromptEncoder


def check_sizes(
    sources: Sequence[Source], encoder: PromptEncoder, budget: int
) -> Iterator[Problem]:
    """Lore and model dialogues of more than `budget` tokens, all that a turn has for its notes."""
    book = Book(sources)
    notes: list[Lore | DialogueTurn] = [*book.all(Lore), *book.all(DialogueTurn)]
    for note in notes:
        for key, lang in _tellings(note):
            size = len(encoder.encode([note_text(note, lang)]))
            if size > budget:
                what = f"takes {size} tokens, so it is never told: a turn has {budget} for notes"
                remedy = "shorten it, or make several of it; or raise PERSONA_NOTE_TOKENS"
                yield book.problem(note, key, what, remedy)


def _tellings(note: Lore | DialogueTurn) -> list[tuple[str, Lang]]:
    """The keys of a note's text, and a language in which each is told."""
    if isinstance(note, DialogueTurn):
        return [("npc", note.lang)]
    if isinstance(note.content, str):
        return [("content", "ko")]
    return [(f"content.{lang}", lang) for lang in note.content]
