"""Replies beside the same after decisions that they contradict."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.train.letters import ALL, WRITER, learned, replies
from tests.train.turns import label
from train.dataset import TurnLabel
from train.examples import Example, Shares, collate, make_example, make_examples, row_tokens

RIVALS = Shares(has_rivals=True)
ALONE = Shares(whole=0.0, alone=1.0, has_rivals=True)


def with_rivals(
    conversations: Sequence[Sequence[TurnLabel]], max_tokens: int = ALL, shares: Shares = RIVALS
) -> list[Example]:
    return list(make_examples(conversations, WRITER, shares=shares, max_tokens=max_tokens))


Labels = dict[str, Any]
FLAGS = ("give_item", "quest_stage_change")


def decided(name: str, *decisions: Labels) -> list[TurnLabel]:
    """A conversation whose turns have such labels, and no others."""
    calm = {"delta": {"trust": 0.0, "relationship": 0.0}, "flag": dict.fromkeys(FLAGS, 0)}
    return [
        label(at, conversation=name, response=f"{name} {at} answer", **(calm | each))
        for at, each in enumerate(decisions)
    ]


GIVES: Labels = {"flag": {"give_item": 1, "quest_stage_change": 0}}
REFUSES: Labels = {"withheld": ["give_item"]}
WARM: Labels = {"delta": {"trust": 0.1, "relationship": 0.0}}
COOL: Labels = {"delta": {"trust": -0.1, "relationship": 0.0}}


@pytest.mark.parametrize(
    ("own", "other"), [(GIVES, {}), (REFUSES, GIVES), (WARM, COOL), (COOL, WARM)]
)
def test_a_rival_has_the_same_reply_after_a_decision_that_it_contradicts(
    own: Labels, other: Labels
) -> None:
    turns = decided("p", {}, own, {})
    (found,) = with_rivals([turns])
    assert found.rival is not None
    read = WRITER.write([turns[0], *decided("p", {}, other)[1:]])
    said = WRITER.write(turns[:2])
    contrary = replace(said.turns[1], decided=read.turns[1].decided)
    expected = make_example(replace(said, turns=[said.turns[0], contrary]))
    assert found.rival.tokens == expected.tokens, "it ends with the reply, nothing else is changed"
    reply = replies(turns[1:2])
    assert [found.rival.tokens[at + 1] for at in found.rival.answers] == reply
    first = found.rival.first
    assert learned(found)[first : first + len(reply)] == reply
    assert replace(found, rival=None) == make_example(WRITER.write(turns))


def test_replies_that_fit_any_decision_and_turns_alone_have_no_rivals() -> None:
    (calm,) = with_rivals([decided("p", {}, {})])
    assert calm.rival is None
    assert all(each.rival is None for each in with_rivals([decided("p", GIVES)], shares=ALONE))
    (unasked,) = with_rivals([decided("p", GIVES)], shares=Shares())
    assert unasked.rival is None


def test_which_reply_has_a_rival_is_drawn_and_every_part_of_a_conversation_has_one() -> None:
    turns = [decided(f"p{at}", GIVES, WARM, GIVES) for at in range(10, 30)]
    found = with_rivals(turns)
    assert len({each.rival.first for each in found if each.rival}) == 3
    assert found == with_rivals(turns)
    size = WRITER.write(turns[0]).num_tokens
    parts = with_rivals([turns[0]], size - 1)
    assert len(parts) > 1
    assert all(part.rival for part in parts)


def test_a_packed_row_tells_which_rivals_foretell_what_and_of_which_reply() -> None:
    conversations = [decided("a", {}, GIVES), decided("b", {}), decided("c", GIVES, WARM, REFUSES)]
    examples = with_rivals(conversations)
    assert [each.rival is not None for each in examples] == [True, False, True]
    batch = collate(examples)
    row = batch.tokens[0].tolist()
    assert row_tokens(examples, range(len(examples))) == len(row) == len(batch.positions[0])
    foretold = [row[at + 1] for at in batch.rival_answers.tolist()]
    assert batch.targets[batch.rival_of].tolist() == foretold
    rivals = [each.rival for each in examples if each.rival]
    assert foretold == [rival.tokens[at + 1] for rival in rivals for at in rival.answers]
    own = batch.answers[batch.rival_of].tolist()
    assert [row[at + 1] for at in own] == foretold
    assert not {*own} & {*batch.rival_answers.tolist()}
    numbers = [at for at, rival in enumerate(rivals) for _ in rival.answers]
    assert batch.reply.tolist() == numbers
    assert batch.num_contrasted == 2
    assert len(batch.delta) == len(batch.states) == 6, "rivals' states have no labels"
