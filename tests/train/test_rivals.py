"""Transcripts beside the same in another state of the game."""

from dataclasses import replace

import msgspec

from tests.train.letters import ALL, WRITER, conversation, learned
from train.dataset import TurnLabel
from train.examples import Example, Shares, collate, make_example, make_examples, row_tokens
from train.places import Places, in_state_of


def staged(name: str, num_turns: int, stage: str) -> list[TurnLabel]:
    return [
        msgspec.structs.replace(turn, tags=msgspec.structs.replace(turn.tags, quest_stage=stage))
        for turn in conversation(name, num_turns)
    ]


STAGED = [staged("p", 4, "started"), staged("q", 4, "done"), staged("r", 1, "started")]


WHOLE, ALONE = Shares(), Shares(whole=0.0, alone=1.0)


def with_rivals(max_tokens: int = ALL, shares: Shares = WHOLE) -> list[Example]:
    places = Places(STAGED)
    return list(make_examples(STAGED, WRITER, shares=shares, max_tokens=max_tokens, places=places))


def test_a_rival_has_the_same_replies_and_decisions_after_another_conversations_states() -> None:
    found = with_rivals()
    donors = {"p": STAGED[1], "r": STAGED[1]}
    for example in found:
        name, rival = example.labels[0].conversation, example.rival
        assert rival is not None
        assert [rival.tokens[at + 1] for at in rival.answers] == learned(example)
        assert rival.lengths == [len(turn.response) + 1 for turn in example.labels]
        assert tuple(rival.tokens[: len(example.opening)]) == example.opening
        if donor := donors.get(name):
            moved = WRITER.write(in_state_of(example.labels, donor))
            assert rival.tokens == make_example(moved).tokens
        assert rival.tokens != example.tokens
    plain = list(make_examples(STAGED, WRITER, shares=WHOLE, max_tokens=ALL))
    assert [(example.tokens, example.answers) for example in found] == [
        (example.tokens, example.answers) for example in plain
    ], "what is learned otherwise stays the same"


def test_a_conversation_that_is_cut_has_rivals_for_its_parts() -> None:
    whole = WRITER.write(STAGED[0]).num_tokens
    parts = [e for e in with_rivals(whole - 1) if e.labels[0].conversation == "p"]
    assert len(parts) > 1
    for part in parts:
        assert part.rival is not None
        assert [part.rival.tokens[at + 1] for at in part.rival.answers] == learned(part)


def test_turns_alone_and_conversations_that_are_always_in_one_state_have_no_rivals() -> None:
    assert all(example.rival is None for example in with_rivals(shares=ALONE))
    places = Places([STAGED[1]])
    (found,) = make_examples([STAGED[1]], WRITER, shares=WHOLE, max_tokens=ALL, places=places)
    assert found.rival is None
    same = WRITER.write(STAGED[0])
    assert make_example(same, same).rival is None


def test_a_packed_row_tells_which_rivals_foretell_what_and_of_which_reply() -> None:
    examples = with_rivals()
    examples[1] = replace(examples[1], rival=None)
    batch = collate(examples)
    row = batch.tokens[0].tolist()
    assert row_tokens(examples, range(len(examples))) == len(row) == len(batch.positions[0])
    targets = batch.targets[batch.rival_of].tolist()
    assert [row[at + 1] for at in batch.rival_answers.tolist()] == targets
    assert targets == [*learned(examples[0]), *learned(examples[2])]
    assert not {*batch.rival_answers.tolist()} & {*batch.answers.tolist()}
    turns = [*STAGED[0], *STAGED[2]]
    numbers = [at for at, turn in enumerate(turns) for _ in range(len(turn.response) + 1)]
    assert batch.reply.tolist() == numbers
    assert batch.num_contrasted == len(turns)
    assert len(batch.delta) == len(batch.states) == 9, "rivals' states have no labels"
