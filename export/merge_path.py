"""How llama.cpp's tokenizers put a piece together: the merges on the way to it.

A trimmed vocabulary tokenises a text as the full one did if it keeps every merge on the way: the
pairs it could choose from are then a subset that still holds the one that was chosen, at each step.
So the kept set is closed under `steps`. Follows llama_vocab.cpp (llm_tokenizer_spm_session,
llm_tokenizer_bpe_session): the best pair first, the leftmost of equals.
"""

from collections.abc import Callable, Iterator, Sequence

from export.vocabulary import Vocabulary

Rank = Callable[[str, str], float | None]
"""Goodness of merging two neighbours (lower is better), None if they do not merge."""


def make_rank(vocabulary: Vocabulary) -> Rank:
    """The rule by which this vocabulary prefers one pair to another."""
    if vocabulary.kind == "bpe":
        ranks: dict[tuple[str, str], float] = {}
        for at, merge in enumerate(vocabulary.merges):
            ranks.setdefault(split_merge(merge), at)
        return lambda left, right: ranks.get((left, right))
    scores = dict(zip(vocabulary.tokens, (-score for score in vocabulary.scores), strict=True))
    return lambda left, right: scores.get(left + right)


def split_merge(merge: str) -> tuple[str, str]:
    """Left and right part of a BPE merge; a space may only lead the left one."""
    at = merge.find(" ", 1)
    return merge[:at], merge[at + 1 :]


def steps(piece: str, rank: Rank) -> Iterator[list[str]]:
    """The pieces that spell `piece`, from single characters, after each merge."""
    parts = list(piece)
    while True:
        yield parts
        pairs = [rank(parts[i], parts[i + 1]) for i in range(len(parts) - 1)]
        found = [(value, at) for at, value in enumerate(pairs) if value is not None]
        if not found:
            return
        at = min(found)[1]
        parts = [*parts[:at], parts[at] + parts[at + 1], *parts[at + 2 :]]


def close(vocabulary: Vocabulary, wanted: Sequence[int]) -> set[int]:
    """`wanted` pieces and all that is merged on the way to them.

    Pieces that the full vocabulary itself never tokenises to (another path wins) are left out:
    no text produces them, so the model never learnt them.
    """
    rank, ids = make_rank(vocabulary), vocabulary.ids()
    kept: set[int] = set()
    for token in wanted:
        path = list(steps(vocabulary.tokens[token], rank))
        if len(path[-1]) == 1:
            kept |= {ids[part] for parts in path for part in parts if part in ids}
    return kept
