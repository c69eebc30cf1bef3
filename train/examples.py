"""Transcripts as tensors: what is read, where the heads are asked, which tokens are replies'."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from train.dataset import TurnLabel
from train.packed_attention import Packing
from train.places import Places, in_state_of, misplaced
from train.transcripts import EncodedTranscript, TranscriptWriter

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Rival:
    """A transcript with the same replies in another state of the game.

    `answers` are positions before a reply's token, as many as the example itself has; `lengths`
    are the tokens of each reply.
    """

    tokens: list[int]
    answers: list[int]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class Example:
    """One transcript. `states` are positions of `<STATE>`; `answers` those before a reply's token.

    `tokens` begin with `opening`, those of `rival`, too; `labels` stand in the order of `states`.
    """

    opening: tuple[int, ...]
    tokens: list[int]
    states: list[int]
    answers: list[int]
    labels: list[TurnLabel]
    rival: Rival | None = None

    @property
    def continuations(self) -> list[list[int]]:
        """What follows the opening: the example's own tokens, and its rival's."""
        transcripts = [self.tokens] if self.rival is None else [self.tokens, self.rival.tokens]
        return [tokens[len(self.opening) :] for tokens in transcripts]


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples with one opening, packed into a row: the opening, then how each goes on.

    `tokens` [1, length] and `positions` [1, length], of each in its own transcript; `states` [n]
    and `answers` [m] index the row; `targets` [m] are the tokens that follow `answers`; `delta`
    [n, n_delta]; `flag` [n, n_flags]. `rivals` [k] index the row where `targets[rival_of]` follow
    in another state of the game, and `reply` [k] numbers the replies that they are of.
    """

    tokens: Tensor
    positions: Tensor
    states: Tensor
    answers: Tensor
    targets: Tensor
    delta: Tensor
    flag: Tensor
    rivals: Tensor
    rival_of: Tensor
    reply: Tensor
    packing: Packing

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        moved = {k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor)}
        return Batch(**(parts | moved))


def make_example(
    transcript: EncodedTranscript, elsewhere: EncodedTranscript | None = None
) -> Example:
    """The example of a transcript; what is told of the past is read and not learned.

    `elsewhere` is the same in another state of the game.
    """
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
    labels = [turn.label for turn in transcript.turns]
    rival = None
    if elsewhere is not None:
        other = make_example(misplaced(transcript, elsewhere))
        lengths = [len(turn.answered) for turn in transcript.turns]
        rival = Rival(other.tokens, other.answers, lengths)
    return Example(opening, tokens, states, answers, labels, rival)


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
    places: Places | None = None,
) -> Iterator[Example]:
    """The examples of labelled conversations, in the order of these.

    Of the conversations that `places` has, one is drawn whose states the rival has.
    """

    def draw_for(turn: TurnLabel, purpose: str) -> random.Random:
        return random.Random(f"{shares.seed} {turn.conversation}{purpose}")  # noqa: S311

    for turns in conversations:
        donors = places.elsewhere(turns) if places else []
        moved = in_state_of(turns, draw_for(turns[0], " rival").choice(donors)) if donors else None
        if draw_for(turns[0], " whole").random() < shares.whole:
            yield from _fitting(turns, moved, 0, writer, max_tokens)
        draw = draw_for(turns[0], "")
        if len(turns) > 1 and draw.random() < shares.rebuilt:
            yield from _fitting(turns, moved, draw.randrange(1, len(turns)), writer, max_tokens)
        for turn in turns:
            if draw_for(turn, f" alone {turn.turn}").random() < shares.alone:
                yield make_example(writer.write_alone(turn))


def _fitting(
    turns: Sequence[TurnLabel],
    moved: Sequence[TurnLabel] | None,
    start: int,
    writer: TranscriptWriter,
    max_tokens: int,
) -> Iterator[Example]:
    """The examples of `turns`, and of the same in another state (`moved`)."""
    transcript = writer.write(turns, start)
    if transcript.num_tokens <= max_tokens or len(turns) == 1:
        yield make_example(transcript, writer.write(moved, start) if moved else None)
        return

    def part(first: int, end: int, start: int) -> Iterator[Example]:
        moved_part = moved[first:end] if moved else None
        return _fitting(turns[first:end], moved_part, start, writer, max_tokens)

    if len(transcript.turns) == 1:  # a long past loses its oldest half, as serving would have it
        half = (start + 1) // 2
        yield from part(half, len(turns), start - half)
        return
    middle = (start + len(turns) + 1) // 2
    yield from part(0, middle, start)
    yield from part(middle, len(turns), 0)


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of `examples`, whose openings must be the same."""
    opening = examples[0].opening
    if any(example.opening != opening for example in examples):
        raise ValueError("examples with different openings in one batch")
    continuations = [part for example in examples for part in example.continuations]
    packing = Packing(len(opening), tuple(map(len, continuations)))
    tokens = [*opening, *(token for part in continuations for token in part)]
    moves = iter(start - len(opening) for start in packing.starts)
    states: list[int] = []
    answers: list[int] = []
    targets: list[int] = []
    rivals: list[int] = []
    rival_of: list[int] = []
    reply: list[int] = []
    for example in examples:
        moved = next(moves)
        if example.rival is not None:
            moved_rival = next(moves)
            rivals += [moved_rival + at for at in example.rival.answers]
            rival_of += range(len(answers), len(answers) + len(example.answers))
            first = reply[-1] + 1 if reply else 0
            for number, length in enumerate(example.rival.lengths, first):
                reply += [number] * length
        states += [moved + at for at in example.states]
        answers += [moved + at for at in example.answers]
        targets += [example.tokens[at + 1] for at in example.answers]
    labels = [label for example in examples for label in example.labels]
    delta, flag = (
        torch.tensor([[*values.values()] for values in found], dtype=torch.float32)
        for found in ([label.delta for label in labels], [label.flag for label in labels])
    )
    states_at, answers_at, follow, rivals_at, paired, numbers = (
        torch.tensor(found, dtype=torch.long)
        for found in (states, answers, targets, rivals, rival_of, reply)
    )
    return Batch(
        tokens=torch.tensor([tokens]),
        positions=packing.positions(),
        states=states_at,
        answers=answers_at,
        targets=follow,
        delta=delta,
        flag=flag,
        rivals=rivals_at,
        rival_of=paired,
        reply=numbers,
        packing=packing,
    )


def row_tokens(examples: Sequence[Example], batch: Sequence[int]) -> int:
    """Tokens of the row that a batch (indices of `examples`) is packed into."""
    parts = (part for index in batch for part in examples[index].continuations)
    return len(examples[batch[0]].opening) + sum(map(len, parts))


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
