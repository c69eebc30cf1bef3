"""Transcripts as tensors: what is read, where the heads are asked, which tokens are replies'."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from train.dataset import TurnLabel
from train.transcripts import EncodedTranscript, TranscriptWriter

Tensor = torch.Tensor
_BUCKET = 64
"""Batches among which examples are sorted by length."""


@dataclass(frozen=True, slots=True)
class Example:
    """One transcript. `states` are positions of `<STATE>`; `answers` those before a reply's token.

    `labels` stand in the order of `states`.
    """

    tokens: list[int]
    states: list[int]
    answers: list[int]
    labels: list[TurnLabel]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right (harmless to causal attention).

    `tokens` [batch, length]; `states` [n] and `answers` [m] index its flattened positions;
    `targets` [m] are the tokens that follow `answers`; `delta` [n, n_delta]; `flag` [n, n_flags].
    """

    tokens: Tensor
    states: Tensor
    answers: Tensor
    targets: Tensor
    delta: Tensor
    flag: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        parts = (getattr(self, name).to(device) for name in self.__slots__)
        return Batch(*parts)


def make_example(transcript: EncodedTranscript) -> Example:
    """The example of a transcript; what is told of the past is read and not learned."""
    tokens = [*transcript.opening, *transcript.told]
    states: list[int] = []
    answers: list[int] = []
    for turn in transcript.turns:
        tokens += turn.asked
        states.append(len(tokens) - 1)
        tokens += turn.decided
        answers += range(len(tokens) - 1, len(tokens) - 1 + len(turn.answered))
        tokens += turn.answered
    return Example(tokens, states, answers, [turn.label for turn in transcript.turns])


def make_examples(
    conversations: Iterable[Sequence[TurnLabel]],
    writer: TranscriptWriter,
    *,
    max_tokens: int,
    rebuilt_share: float,
    seed: int,
) -> Iterator[Example]:
    """Every conversation continued, and a share of them also from a turn on, the past told.

    Where the past ends is drawn by `seed` and the conversation's name.
    """
    for turns in conversations:
        yield from _fitting(turns, 0, writer, max_tokens)
        draw = random.Random(f"{seed} {turns[0].conversation}")  # noqa: S311
        if len(turns) > 1 and draw.random() < rebuilt_share:
            yield from _fitting(turns, draw.randrange(1, len(turns)), writer, max_tokens)


def _fitting(
    turns: Sequence[TurnLabel], start: int, writer: TranscriptWriter, max_tokens: int
) -> Iterator[Example]:
    transcript = writer.write(turns, start)
    if transcript.num_tokens <= max_tokens or len(turns) == 1:
        yield make_example(transcript)
        return
    if len(transcript.turns) == 1:  # a long past loses its oldest half, as serving would have it
        half = (start + 1) // 2
        yield from _fitting(turns[half:], start - half, writer, max_tokens)
        return
    middle = (start + len(turns) + 1) // 2
    yield from _fitting(turns[:middle], start, writer, max_tokens)
    yield from _fitting(turns[middle:], 0, writer, max_tokens)


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of `examples`."""
    length = max(len(example.tokens) for example in examples)
    tokens = torch.zeros(len(examples), length, dtype=torch.long)
    states: list[int] = []
    answers: list[int] = []
    targets: list[int] = []
    for row, example in enumerate(examples):
        tokens[row, : len(example.tokens)] = torch.tensor(example.tokens)
        states += [row * length + at for at in example.states]
        answers += [row * length + at for at in example.answers]
        targets += [example.tokens[at + 1] for at in example.answers]
    labels = [label for example in examples for label in example.labels]
    return Batch(
        tokens,
        torch.tensor(states),
        torch.tensor(answers),
        torch.tensor(targets),
        torch.tensor([[*label.delta.values()] for label in labels], dtype=torch.float32),
        torch.tensor([[*label.flag.values()] for label in labels], dtype=torch.float32),
    )


def batch_order(examples: Sequence[Example], size: int, seed: str) -> list[list[int]]:
    """Indices of `examples` in batches of like length, in an order drawn by `seed`."""
    draw = random.Random(seed)  # noqa: S311
    order = list(range(len(examples)))
    draw.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), size * _BUCKET):
        bucket = order[start : start + size * _BUCKET]
        bucket.sort(key=lambda index: len(examples[index].tokens))
        batches += [bucket[at : at + size] for at in range(0, len(bucket), size)]
    draw.shuffle(batches)
    return batches
