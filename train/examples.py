"""Transcripts as tensors: what is read, where the heads are asked, which tokens are replies'."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch

from runtime.prompt import decision_segments
from train.dataset import TurnLabel
from train.packed_attention import Packing
from train.transcripts import EncodedTranscript, TranscriptWriter, other_decision

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Rival:
    """A transcript up to one of the example's replies, after a decision that it contradicts.

    `answers` are positions before a token of that reply; `first` is which of the example's answers
    the first of them stands for.
    """

    tokens: list[int]
    answers: list[int]
    first: int


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
    def transcripts(self) -> list[list[int]]:
        """The tokens of the example, and of its rival."""
        return [self.tokens] if self.rival is None else [self.tokens, self.rival.tokens]

    @property
    def num_continued(self) -> int:
        """Tokens of both after the opening."""
        return sum(len(tokens) - len(self.opening) for tokens in self.transcripts)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples with one opening, packed into a row: the opening, then how each goes on.

    `tokens` [1, length] and `positions` [1, length], of each in its own transcript; `states` [n]
    and `answers` [m] index the row; `targets` [m] are the tokens that follow `answers`; `delta`
    [n, n_delta]; `flag` [n, n_flags]. `rival_answers` [k] index the row where `targets[rival_of]`
    follow another decision; `reply` [k] says of which of `num_contrasted` replies they are.
    """

    tokens: Tensor
    positions: Tensor
    states: Tensor
    answers: Tensor
    targets: Tensor
    delta: Tensor
    flag: Tensor
    rival_answers: Tensor
    rival_of: Tensor
    reply: Tensor
    num_contrasted: int
    packing: Packing

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        parts = {name: getattr(self, name) for name in self.__slots__}
        moved = {k: v.to(device) for k, v in parts.items() if isinstance(v, Tensor)}
        return Batch(**(parts | moved))


def make_example(transcript: EncodedTranscript, rival: Rival | None = None) -> Example:
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
    labels = [turn.label for turn in transcript.turns]
    return Example(opening, tokens, states, answers, labels, rival)


def make_rival(
    transcript: EncodedTranscript, writer: TranscriptWriter, draw: random.Random
) -> Rival | None:
    """The rival of one of the transcript's replies, as `draw` has it; None if none can have one."""
    words = [other_decision(turn.label, writer.world) for turn in transcript.turns]
    if not (contrary := [at for at, each in enumerate(words) if each is not None]):
        return None
    at = draw.choice(contrary)
    decided = writer.encoder.encode(decision_segments(words[at] or ""))
    turns = [*transcript.turns[:at], replace(transcript.turns[at], decided=decided)]
    other = make_example(replace(transcript, turns=turns))
    length = len(turns[-1].answered)
    return Rival(other.tokens, other.answers[-length:], len(other.answers) - length)


@dataclass(frozen=True, slots=True)
class Shares:
    """Of conversations: continued from the first turn, and from a turn on, the past told.

    Of turns: alone, up to `<STATE>`. Which, and where a past ends, is drawn by `seed` and the name;
    so is, with `has_rivals`, which reply of those that are not alone has one.
    """

    whole: float = 1.0
    rebuilt: float = 0.0
    alone: float = 0.0
    seed: int = 0
    has_rivals: bool = False


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
        starts = [0] if draw_for(turns[0], " whole").random() < shares.whole else []
        draw = draw_for(turns[0], "")
        if len(turns) > 1 and draw.random() < shares.rebuilt:
            starts.append(draw.randrange(1, len(turns)))
        draw_rival = draw_for(turns[0], " rival")
        for start in starts:
            for transcript in _fitting(turns, start, writer, max_tokens):
                rival = make_rival(transcript, writer, draw_rival) if shares.has_rivals else None
                yield make_example(transcript, rival)
        for turn in turns:
            if draw_for(turn, f" alone {turn.turn}").random() < shares.alone:
                yield make_example(writer.write_alone(turn))


def _fitting(
    turns: Sequence[TurnLabel], start: int, writer: TranscriptWriter, max_tokens: int
) -> Iterator[EncodedTranscript]:
    transcript = writer.write(turns, start)
    if transcript.num_tokens <= max_tokens or len(turns) == 1:
        yield transcript
        return
    if len(transcript.turns) == 1:  # a long past loses its oldest half, as serving would have it
        half = (start + 1) // 2
        yield from _fitting(turns[half:], start - half, writer, max_tokens)
        return
    middle = (start + len(turns) + 1) // 2
    yield from _fitting(turns[:middle], start, writer, max_tokens)
    yield from _fitting(turns[middle:], 0, writer, max_tokens)


@dataclass(slots=True)
class _Row:
    """What a row's batch indexes, as examples are put into it."""

    states: list[int] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    rival_answers: list[int] = field(default_factory=list)
    rival_of: list[int] = field(default_factory=list)
    reply: list[int] = field(default_factory=list)
    num_contrasted: int = 0

    def add(self, example: Example, shift: int) -> None:
        """`shift` is by how much the example's tokens stand further on in the row."""
        self.states += [shift + at for at in example.states]
        self.answers += [shift + at for at in example.answers]
        self.targets += [example.tokens[at + 1] for at in example.answers]

    def add_rival(self, example: Example, rival: Rival, shift: int) -> None:
        """Of `example`, which was added last."""
        first = len(self.answers) - len(example.answers) + rival.first
        self.rival_answers += [shift + at for at in rival.answers]
        self.rival_of += range(first, first + len(rival.answers))
        self.reply += [self.num_contrasted] * len(rival.answers)
        self.num_contrasted += 1


def collate(examples: Sequence[Example]) -> Batch:
    """One batch of `examples`, whose openings must be the same."""
    opening = examples[0].opening
    if any(example.opening != opening for example in examples):
        raise ValueError("examples with different openings in one batch")
    parts = [tokens[len(opening) :] for each in examples for tokens in each.transcripts]
    packing = Packing(len(opening), tuple(map(len, parts)))
    shifts = iter([start - len(opening) for start in packing.starts])
    row = _Row()
    for example in examples:
        row.add(example, next(shifts))
        if example.rival is not None:
            row.add_rival(example, example.rival, next(shifts))
    labels = [label for example in examples for label in example.labels]
    return Batch(
        tokens=torch.tensor([[*opening, *chain.from_iterable(parts)]]),
        positions=packing.positions(),
        states=torch.tensor(row.states, dtype=torch.long),
        answers=torch.tensor(row.answers, dtype=torch.long),
        targets=torch.tensor(row.targets, dtype=torch.long),
        delta=torch.tensor([[*label.delta.values()] for label in labels], dtype=torch.float32),
        flag=torch.tensor([[*label.flag.values()] for label in labels], dtype=torch.float32),
        rival_answers=torch.tensor(row.rival_answers, dtype=torch.long),
        rival_of=torch.tensor(row.rival_of, dtype=torch.long),
        reply=torch.tensor(row.reply, dtype=torch.long),
        num_contrasted=row.num_contrasted,
        packing=packing,
    )


def row_tokens(examples: Sequence[Example], batch: Sequence[int]) -> int:
    """Tokens of the row that a batch (indices of `examples`) is packed into."""
    opening = len(examples[batch[0]].opening)
    return opening + sum(examples[index].num_continued for index in batch)


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
