"""Conversations in another state of the game than the one that they were written for."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from train.dataset import TurnLabel
from train.transcripts import EncodedTranscript

Turns = Sequence[TurnLabel]


class Places:
    """`conversations`, by NPC and language: whose states a conversation could have had."""

    def __init__(self, conversations: Iterable[Turns]) -> None:
        self._of: dict[tuple[str, str], list[Turns]] = defaultdict(list)
        for turns in conversations:
            self._of[_place(turns)].append(turns)

    def elsewhere(self, turns: Turns) -> list[Turns]:
        """Those with the same NPC that begin in another state than `turns`, which is one of them.

        They come in order, beginning after `turns`; each has a state for every one of `turns`.
        """
        group = self._of[_place(turns)]
        at = next((i for i, each in enumerate(group) if each is turns), None)
        assert at is not None, f"{turns[0].conversation} is in no place"
        following = [*group[at + 1 :], *group[:at]]
        return [
            each for each in following if each[0].tags != turns[0].tags and len(each) >= len(turns)
        ]


def in_state_of(turns: Turns, donor: Turns) -> list[TurnLabel]:
    """`turns` in the states of `donor`, which is as long at least."""
    return [
        msgspec.structs.replace(label, tags=state.tags, context=state.context)
        for label, state in zip(turns, donor, strict=False)
    ]


def misplaced(right: EncodedTranscript, wrong: EncodedTranscript) -> EncodedTranscript:
    """What `wrong` has before each `<STATE>`, and what `right` has after it."""
    turns = [
        replace(own, asked=other.asked) for own, other in zip(right.turns, wrong.turns, strict=True)
    ]
    return EncodedTranscript(wrong.opening, wrong.told, turns)


def _place(turns: Turns) -> tuple[str, str]:
    return turns[0].npc_id, turns[0].lang
