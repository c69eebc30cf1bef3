"""Transcripts as tensors, on a vocabulary of single letters."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.prompt import Special
from tests.train.letters import ALL, EOS, SPECIALS, WRITER, conversation, learned, replies
from train.dataset import TurnLabel
from train.examples import (
    Example,
    Shares,
    batch_order,
    collate,
    make_example,
    make_examples,
    row_tokens,
)
from train.packed_attention import Packing

CONVERSATIONS = [conversation(name, at % 4 + 1) for at, name in enumerate("abcdefghijkl")]


def examples_of(
    conversations: Sequence[Sequence[TurnLabel]] = CONVERSATIONS,
    max_tokens: int = ALL,
    seed: int = 0,
    **shares: Any,
) -> list[Example]:
    wanted = Shares(**shares, seed=seed)
    return list(make_examples(conversations, WRITER, shares=wanted, max_tokens=max_tokens))


@pytest.mark.parametrize("start", [0, 1, 3])
def test_states_are_asked_where_their_token_is(start: int) -> None:
    turns = conversation("a", 5)
    example = make_example(WRITER.write(turns, start))
    assert example.labels == turns[start:]
    state = SPECIALS[Special.STATE]
    asked = [at for at, token in enumerate(example.tokens) if token == state]
    assert example.states == asked[start:]


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_replies_and_their_ends_are_learned_in_order_and_nothing_of_the_told_past(
    start: int,
) -> None:
    turns = conversation("a", 5)
    transcript = WRITER.write(turns, start)
    example = make_example(transcript)
    assert learned(example) == replies(turns[start:])
    assert example.answers == sorted(example.answers)
    num_told = len(transcript.opening) + len(transcript.told)
    assert min(example.answers + example.states) >= num_told
    assert len(example.tokens) == transcript.num_tokens


def test_no_token_of_an_utterance_or_a_decision_is_learned() -> None:
    example = make_example(WRITER.write(conversation("a", 3)))
    others = set(range(1, len(example.tokens))) - {at + 1 for at in example.answers}
    unlearned = [example.tokens[at] for at in sorted(others)]
    assert EOS not in unlearned
    assert {SPECIALS[s] for s in Special} <= set(unlearned)
    assert not {SPECIALS[s] for s in Special} & set(learned(example))


def test_without_a_rebuilt_share_each_conversation_is_seen_once_and_continued() -> None:
    found = examples_of(rebuilt=0.0)
    assert found == [make_example(WRITER.write(turns)) for turns in CONVERSATIONS]


def test_with_a_rebuilt_share_of_one_each_that_has_a_past_is_also_seen_with_it_told() -> None:
    found = examples_of(rebuilt=1.0)
    for turns in CONVERSATIONS:
        mine = [e for e in found if e.labels[0].conversation == turns[0].conversation]
        continued, *rebuilt = mine
        assert continued == make_example(WRITER.write(turns))
        assert len(rebuilt) == (len(turns) > 1)
        for example in rebuilt:
            start = len(turns) - len(example.labels)
            assert start > 0
            assert example == make_example(WRITER.write(turns, start))


def test_a_rebuilt_share_is_about_the_share_of_conversations_that_have_a_past() -> None:
    many = [conversation(f"c{at}", 4) for at in range(400)]
    num_rebuilt = len(examples_of(many, rebuilt=0.3)) - len(many)
    assert 90 <= num_rebuilt <= 150


def test_with_a_whole_of_none_and_an_alone_of_one_each_turn_is_seen_once() -> None:
    found = examples_of(whole=0.0, alone=1.0)
    assert [example.labels for example in found] == [[t] for turns in CONVERSATIONS for t in turns]
    for example in found:
        first_turn = WRITER.write(example.labels)
        assert example.tokens == [*first_turn.opening, *first_turn.turns[0].asked]
        assert example.states == [len(example.tokens) - 1]
        assert example.answers == []


def test_turns_that_are_seen_alone_the_scene_as_their_opening() -> None:
    turns = conversation("a", 3)
    alone = [make_example(WRITER.write_alone(turn)) for turn in turns]
    assert len({example.opening for example in alone}) == 1
    assert SPECIALS[Special.RAG] in alone[0].opening
    assert alone[0].tokens[len(alone[0].opening)] == SPECIALS[Special.PLAYER_STATE]


@pytest.mark.parametrize(("shares", "of"), [({"whole": 0.3}, 400), ({"alone": 0.3}, 1600)])
def test_shares_of_conversations_and_of_turns_alone_are_about_that(
    shares: dict[str, float], of: int
) -> None:
    many = [conversation(f"c{at}", 4) for at in range(400)]
    found = examples_of(many, ALL, 0, **{"whole": 0.0, **shares})
    assert 0.2 * of <= len(found) <= 0.4 * of


def test_the_past_may_end_before_any_turn_but_the_first() -> None:
    many = [conversation(f"c{at}", 4) for at in range(100)]
    rebuilt = [e for e in examples_of(many, rebuilt=1.0) if e.labels[0].turn]
    assert {example.labels[0].turn for example in rebuilt} == {1, 2, 3}


def test_the_same_seed_gives_the_same_examples_whatever_else_is_drawn() -> None:
    first = examples_of(rebuilt=0.5, seed=3)
    random.random()
    assert examples_of(rebuilt=0.5, seed=3) == first
    alone = [
        example for turns in CONVERSATIONS for example in examples_of([turns], seed=3, rebuilt=0.5)
    ]
    assert alone == first


def test_another_seed_gives_other_examples() -> None:
    assert examples_of(rebuilt=0.5, seed=3) != examples_of(rebuilt=0.5, seed=4)


@given(
    num_turns=st.integers(1, 9),
    length=st.integers(1, 60),
    max_tokens=st.integers(150, 1_500),
)
def test_a_long_conversation_is_cut_so_that_all_fits_and_no_turn_is_lost_or_doubled(
    num_turns: int, length: int, max_tokens: int
) -> None:
    turns = conversation("a", num_turns, length)
    found = examples_of([turns], max_tokens)
    assert [turn for example in found for turn in example.labels] == turns
    for example in found:
        assert len(example.tokens) <= max_tokens or len(example.labels) == 1
        assert example == make_example(WRITER.write(example.labels))
    is_short = WRITER.write(turns).num_tokens <= max_tokens
    assert (len(found) == 1) == (is_short or num_turns == 1)


@given(num_turns=st.integers(2, 9), seed=st.integers(0, 9), max_tokens=st.integers(150, 1_500))
def test_a_long_rebuilt_conversation_is_cut_likewise(
    num_turns: int, seed: int, max_tokens: int
) -> None:
    turns = conversation("a", num_turns)
    found = examples_of([turns], max_tokens, seed, rebuilt=1.0)
    seen = [turn for example in found for turn in example.labels]
    start = 2 * num_turns - len(seen)
    assert 1 <= start < num_turns
    assert seen == [*turns, *turns[start:]]
    for example in found:
        assert len(example.tokens) <= max_tokens or len(example.labels) == 1
    rebuilt = next(e for e in reversed(found) if turns[start] in e.labels)
    end = start + len(rebuilt.labels)
    pasts = [make_example(WRITER.write(turns[cut:end], start - cut)) for cut in range(start + 1)]
    assert rebuilt in pasts
    if rebuilt != pasts[0]:
        assert len(rebuilt.labels) == 1, "a past is cut only where a single turn is too long for it"


@given(sizes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 30)), min_size=1, max_size=5))
def test_what_is_gathered_from_a_packed_row_is_what_single_examples_have(
    sizes: list[tuple[int, int]],
) -> None:
    examples = [
        make_example(WRITER.write(conversation(f"c{at}", num, length), num // 2))
        for at, (num, length) in enumerate(sizes)
    ]
    batch = collate(examples)
    opening = examples[0].opening
    row = [*opening, *(token for e in examples for token in e.tokens[len(opening) :])]
    assert batch.tokens.tolist() == [row]
    assert batch.packing == Packing(
        len(opening), tuple(len(e.tokens) - len(opening) for e in examples)
    )
    ends = [len(example.tokens) for example in examples]
    positions = [*range(len(opening)), *(at for end in ends for at in range(len(opening), end))]
    assert batch.positions.tolist() == [positions]
    for gathered, wanted in (
        (batch.states, [(e, at) for e in examples for at in e.states]),
        (batch.answers, [(e, at) for e in examples for at in e.answers]),
    ):
        assert [positions[at] for at in gathered.tolist()] == [at for _, at in wanted]
        assert [row[at] for at in gathered.tolist()] == [e.tokens[at] for e, at in wanted]
    assert batch.targets.tolist() == [token for e in examples for token in learned(e)]
    assert [row[at + 1] for at in batch.answers.tolist()] == batch.targets.tolist()


def test_examples_that_begin_otherwise_are_no_batch() -> None:
    first, second = (make_example(WRITER.write(conversation(name, 1))) for name in "ab")
    other = replace(second, opening=second.opening[:-1])
    with pytest.raises(ValueError, match="different openings"):
        collate([first, other])


def test_the_labels_of_a_batch_stand_in_the_order_of_its_states() -> None:
    examples = [make_example(WRITER.write(conversation(name, 3), 1)) for name in "ab"]
    batch = collate(examples)
    labels = [turn for example in examples for turn in example.labels]
    expected = [[turn.delta["trust"], turn.delta["relationship"]] for turn in labels]
    torch.testing.assert_close(batch.delta, torch.tensor(expected))
    flags = [[turn.flag["give_item"], turn.flag["quest_stage_change"]] for turn in labels]
    assert batch.flag.tolist() == flags
    assert (batch.delta.dtype, batch.flag.dtype) == (torch.float32, torch.float32)


def test_a_batch_moves_to_a_device_as_a_whole() -> None:
    batch = collate([make_example(WRITER.write(conversation("a", 2)))])
    moved = batch.to(torch.device("meta"))
    parts = [getattr(moved, name) for name in moved.__slots__]
    assert {part.device.type for part in parts if isinstance(part, torch.Tensor)} == {"meta"}
    assert moved.packing == batch.packing


def beginning(openings: Sequence[int]) -> list[Example]:
    return [Example((opening,), [opening, 0], [], [], []) for opening in openings]


OPENINGS = st.lists(st.integers(0, 5), min_size=1, max_size=300)


@given(openings=OPENINGS, size=st.integers(1, 8), seed=st.text(max_size=4))
def test_batches_hold_each_example_once_begin_alike_and_are_as_few_as_can_be(
    openings: list[int], size: int, seed: str
) -> None:
    batches = batch_order(beginning(openings), 1 + size, seed)  # an opening, and one token each
    assert sorted(at for batch in batches for at in batch) == list(range(len(openings)))
    assert all(len({openings[at] for at in batch}) == 1 for batch in batches)
    assert max(len(batch) for batch in batches) <= size
    assert len(batches) == sum(-(-count // size) for count in Counter(openings).values())


def test_a_row_holds_what_fits_and_what_fits_nowhere_has_one_to_itself() -> None:
    lengths = [5, 40, 7, 3, 90, 8, 6]
    examples = [Example((0,), [0] * length, [], [], []) for length in lengths]
    batches = batch_order(examples, 20, "0")
    sizes = {at: row_tokens(examples, batch) for batch in batches for at in batch}
    assert {at for at, size in sizes.items() if size > 20} == {1, 4}
    assert [batch for batch in batches if {1, 4} & {*batch} and len(batch) > 1] == []
    assert row_tokens(examples, [0, 2, 3]) == 1 + 4 + 6 + 2


def test_the_order_of_batches_is_a_function_of_its_seed() -> None:
    examples = beginning([at % 5 for at in range(100)])
    first = batch_order(examples, 5, "0 0")
    random.random()
    assert batch_order(examples, 5, "0 0") == first
    assert batch_order(examples, 5, "0 1") != first


def test_batches_do_not_come_opening_by_opening() -> None:
    openings = [at // 20 for at in range(100)]
    firsts = [openings[batch[0]] for batch in batch_order(beginning(openings), 5, "0")]
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))


def test_a_batch_without_replies_still_indexes_its_row() -> None:
    batch = collate([make_example(WRITER.write_alone(turn)) for turn in conversation("a", 2)])
    hidden = torch.rand(batch.tokens.shape[1], 3)
    assert hidden[batch.states].shape == (2, 3)
    assert hidden[batch.answers].shape == (0, 3)
    assert batch.targets.dtype == torch.long
