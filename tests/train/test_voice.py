"""Responses in another's place, scored by readers that tests make up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rag.documents import NpcPersona
from rag.world import World
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import LlamaModel
from runtime.prompt import decision_segments
from tests.train.turns import label, line
from train.dataset import TurnLabel
from train.states import LabelledState, Reading
from train.transcripts import EncodedTranscript, TranscriptWriter
from train.voice import Voice, voice

WORLD = World(
    NpcPersona(id=f"{name}.p", npc_id=name, name=name.title(), persona=f"{name}!", style="terse")
    for name in ("mina", "rook")
)


@pytest.fixture
def writer(qwen: LlamaModel) -> TranscriptWriter:
    return TranscriptWriter(WORLD, PromptEncoder(qwen, find_special_ids(qwen)))


def conversation(name: str, npc_id: str, stage: str, count: int = 2) -> list[TurnLabel]:
    tags: dict[str, Any] = {**line()["tags"], "quest_stage": stage}
    others = {"conversation": name, "npc_id": npc_id, "split_group": name}
    return [label(turn, tags=tags, response=f"{name} {turn}", **others) for turn in range(count)]


CONVERSATIONS = [
    conversation("a", "mina", "started", count=3),
    conversation("b", "mina", "done", count=3),
    conversation("c", "rook", "started"),
    conversation("d", "rook", "done"),
    conversation("alone", "rook", "done"),
]


LABELLED = {turns[0].conversation: turns for turns in CONVERSATIONS}


class Reader:
    """Gives each response the NLL that its place says; remembers what it read.

    `npc` and `state` are added in another's place, and `decided` where the words that stand for the
    decision are the other state's.
    """

    def __init__(self, writer: TranscriptWriter, npc: float, state: float, decided: float = 0):
        self.own = {name: writer.write(turns) for name, turns in LABELLED.items()}
        self.npc, self.state, self.decided = npc, state, decided
        self.read_ones: list[EncodedTranscript] = []
        self.otherwise = writer.encoder.encode(decision_segments("done"))

    def __call__(self, wanted: Sequence[Reading]) -> list[LabelledState]:
        found = []
        for reading in wanted:
            self.read_ones.append(reading.transcript)
            own = self.own[reading.transcript.turns[0].label.conversation]
            for at, turn in enumerate(reading.transcript.turns):
                assert turn.answered == own.turns[at].answered, "the response is its own"
                nll = 10.0
                if reading.transcript.opening != own.opening:
                    nll += self.npc
                elif reading.transcript.turns[0].asked != own.turns[0].asked:
                    nll += self.state
                if turn.decided == self.otherwise:
                    nll += self.decided
                vector = np.zeros(1, np.float32)
                found.append(LabelledState(turn.label, reading.form, vector, nll, 5))
        return found


def same(_state: LabelledState, _label: TurnLabel) -> str:
    return "trust=="


def by_stage(state: LabelledState, turn: TurnLabel) -> str:
    """Conversations that began at `started` are decided otherwise in the stage of their donor."""
    own = LABELLED[state.label.conversation][0].tags.quest_stage
    return turn.tags.quest_stage if own == "started" else "trust=="


def measured(writer: TranscriptWriter, npc: float, state: float) -> Voice:
    found = voice(CONVERSATIONS, writer, Reader(writer, npc, state), same)
    assert found is not None
    return found


def test_each_response_is_scored_in_three_places(writer: TranscriptWriter) -> None:
    reader = Reader(writer, 1, 1)
    found = voice(CONVERSATIONS, writer, reader, same)
    assert found is not None
    assert found.num_turns == 3 + 3 + 2 + 2 + 2
    own, npc, state, decided, decided_state = np.split(np.array(reader.read_ones, dtype=object), 5)
    for right, elsewhere, otherwise in zip(own, npc, state, strict=True):
        assert elsewhere.opening != right.opening == otherwise.opening
        assert right.turns[0].asked != otherwise.turns[0].asked
        labelled = [turn.decided for turn in right.turns]
        assert [turn.decided for turn in elsewhere.turns] == labelled
        assert [turn.decided for turn in otherwise.turns] == labelled
    words = writer.encoder.encode(decision_segments("trust=="))
    for before, after in zip([*own, *state], [*decided, *decided_state], strict=True):
        assert [turn.asked for turn in after.turns] == [turn.asked for turn in before.turns]
        assert all(turn.decided == words for turn in after.turns)


@pytest.mark.parametrize(
    ("npc", "state", "shares"),
    [(1, 1, (1, 1, 1)), (-1, 1, (0, 1, 0)), (1, -1, (1, 0, 0)), (0, 0, (0, 0, 0))],
)
def test_the_shares_are_of_responses_likelier_where_they_were_given(
    writer: TranscriptWriter, npc: float, state: float, shares: tuple[float, ...]
) -> None:
    found = measured(writer, npc, state)
    assert (found.npc.value, found.state.value, found.both.value) == shares
    assert (found.npc.low, found.npc.high) == (shares[0], shares[0])
    assert found.decided.value == shares[1]
    assert (found.num_changed, found.changed) == (0, None)


@pytest.mark.parametrize("state", [0, -1])
def test_what_the_state_changes_shows_in_the_decision(
    writer: TranscriptWriter, state: float
) -> None:
    found = voice(CONVERSATIONS, writer, Reader(writer, 1, state, decided=2), by_stage)
    assert found is not None
    assert found.changed is not None
    assert found.num_changed == 3 + 2, "those of a and c"
    assert (found.state.value, found.changed.value) == (0, 1)
    assert found.decided.value == pytest.approx(5 / 12)


def test_where_there_is_nobody_to_confuse_with_there_is_no_figure(
    writer: TranscriptWriter,
) -> None:
    alone = CONVERSATIONS[:2]
    assert voice(alone, writer, Reader(writer, 1, 1), same) is None
    one_state = [CONVERSATIONS[0], CONVERSATIONS[2]]
    assert voice(one_state, writer, Reader(writer, 1, 1), same) is None
