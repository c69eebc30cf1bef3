"""Transcripts as tensors: what is read, where the heads are asked, which tokens are replies'."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from train.dataset import TurnLabel
from train.packed_attention import Packing
from train.transcripts import EncodedTranscript, TranscriptWriter

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Example:
    """One transcript. `states` are positions of `<STATE>`; `answers` those before a reply's token.

    `tokens` begin with `opening`; `labels` stand in the order of `states`.
    """

    opening: tuple[int, ...]
    tokens: list[int]
    states: list[int]
    answers: list[int]
    labels: list[TurnLabel]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples with one opening, packed into a row: the opening, then how each goes on.

    `tokens` [1, length] and `positions` [1, length], of each in its own transcript; `states` [n]
    and `answers` [m] index the row; `targets` [m] are the tokens that follow `answers`; `delta`
    [n, n_delta]; `flag` [n, n_flags].
    """

    tokens: Tensor
    positions: Tensor
    states: Tensor
    answers: Tensor
    targets: Tensor
    delta: Tensor
    flag: Tensor
    packing: Packing

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        moved = {k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor)}
        return Batch(**(parts | moved))


def make_example(transcript: EncodedTranscript) -> Example:
    """The example of a transcript; what is told of the past is read and not learned."""
    opening = tuple(transcript.opening)
    tokens = [*opening, *transcript.told]
    states: list[int] = []
    answers: list[int] = []
    for turn in transcript.turns:
        tokens += turn.asked
        states.append(len(tokens) - 1)
        tokens += turn.decided
        answers += range(len(tokens) - 1, len(tokens) - 1 + len(turn.answered))
        tokens += turn.answered
    return Example(opening, tokens, states, answers, [turn.label for turn in transcript.turns])


@dataclass(frozen=True, slots=True)
class Shares:
    """Of conversations: continued from the first turn, and from a turn on, the past told.

    Of turns: alone, up to `<STATE>`. Which, and where a past ends, is drawn by `seed` and the name.
    """

    whole: float = 1.0
    rebuilt: float = 0.0
    alone: float = 0.0
    seed: int = 0


def make_examples(
    conversations: Iterable[Sequence[TurnLabel]],
    writer: TranscriptWriter,
    *,
    shares: Shares,
    max_tokens: int,
) -> Iterator[Example]:
    """The examples of labelled conversations, in the order of these."""

    def draw_for(turn: TurnLabel, purpose: str) -> random.Random:
        return random.Random(f"{shares.seed} {turn.conversation}{purpose}")  # noqa: S311

    for turns in conversations:
        if draw_for(turns[0], " whole").random() < shares.whole:
            yield from _fitting(turns, 0, writer, max_tokens)
        draw = draw_for(turns[0], "")
        if len(turns) > 1 and draw.random() < shares.rebuilt:
            yield from _fitting(turns, draw.randrange(1, len(turns)), writer, max_tokens)
        for turn in turns:
            if draw_for(turn, f" alone {turn.turn}").random() < shares.alone:
                yield make_example(writer.write_alone(turn))


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
    """One batch of `examples`, whose openings must be the same."""
    opening = examples[0].opening
    if any(example.opening != opening for example in examples):
        raise ValueError("examples with different openings in one batch")
    packing = Packing(len(opening), tuple(len(e.tokens) - len(opening) for e in examples))
    tokens = [*opening]
    states: list[int] = []
    answers: list[int] = []
    targets: list[int] = []
    for example, start in zip(examples, packing.starts, strict=True):
        moved = start - len(opening)
        tokens += example.tokens[len(opening) :]
        states += [moved + at for at in example.states]
        answers += [moved + at for at in example.answers]
        targets += [example.tokens[at + 1] for at in example.answers]
    labels = [label for example in examples for label in example.labels]
    return Batch(
        torch.tensor([tokens]),
        packing.positions(),
        torch.tensor(states, dtype=torch.long),
        torch.tensor(answers, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor([[*label.delta.values()] for label in labels], dtype=torch.float32),
        torch.tensor([[*label.flag.values()] for label in labels], dtype=torch.float32),
        packing,
    )


def row_tokens(examples: Sequence[Example], batch: Sequence[int]) -> int:
    """Tokens of the row that a batch (indices of `examples`) is packed into."""
    opening = len(examples[batch[0]].opening)
    return opening + sum(len(examples[index].tokens) - opening for index in batch)


def batch_order(examples: Sequence[Example], max_tokens: int, seed: str) -> list[list[int]]:
    """Indices of `examples` in batches with one opening, drawn by `seed`.

    A batch's row has at most `max_tokens`, unless one example alone has more.
    """
    draw = random.Random(seed)  # noqa: S311
    order = list(range(len(examples)))
    draw.shuffle(order)
    open_batches: dict[tuple[int, ...], list[int]] = {}
    batches = []
    for index in order:
        batch = open_batches.get(examples[index].opening)
        if batch is None or row_tokens(examples, [*batch, index]) > max_tokens:
            batch = open_batches[examples[index].opening] = []
            batches.append(batch)
        batch.append(index)
    draw.shuffle(batches)
    return batches
