from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from heads.bundle import ContextSettings
from train.dataset import Tags, TurnLabel
from train.state_cache import load_states, save_states, states_key
from train.states import Conditions, Form, LabelledState, Reading
from train.transcripts import EncodedTranscript, EncodedTurn

LABEL = TurnLabel(
    conversation="c-1",
    turn=2,
    npc_id="okbun",
    tags=Tags(
        quest_stage="in_progress", location="salt_fields", trust=0, relationship=0, npc_mood="calm"
    ),
    player_utterance="소금 좀 주세요.",
    response="말린 입으로 말하지 마라.",
    delta={"trust": 0.1},
    flag={"give_item": 0},
    lang="ko",
    split_group="salt",
)
STATES = [
    LabelledState(LABEL, form, np.arange(4, dtype=np.float32) + number, nll, 3 * number)
    for number, (form, nll) in enumerate(zip(Form, (None, 12.5), strict=True))
]


def test_states_come_back_with_their_labels_and_forms(tmp_path: Path) -> None:
    save_states(tmp_path / "states.npz", "key", STATES)
    found = load_states(tmp_path / "states.npz", "key", [LABEL])
    assert found is not None
    for state, expected in zip(found, STATES, strict=True):
        assert replace(state, vector=expected.vector) == expected
    for state, expected in zip(found, STATES, strict=True):
        np.testing.assert_array_equal(state.vector, expected.vector)
    assert [path.name for path in tmp_path.iterdir()] == ["states.npz"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 cut short", b"no archive"])
def test_a_file_that_cannot_be_read_counts_as_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "states.npz").write_bytes(content)
    assert load_states(tmp_path / "states.npz", "key", [LABEL]) is None


def test_states_of_another_key_are_not_taken(tmp_path: Path) -> None:
    save_states(tmp_path / "states.npz", "key", STATES)
    assert load_states(tmp_path / "states.npz", "other", [LABEL]) is None


def test_the_key_changes_with_the_model_the_tokens_and_the_settings(tmp_path: Path) -> None:
    model, usual = tmp_path / "m.gguf", Conditions(ContextSettings(), 1)

    def key(
        other: str = "",
        form: Form = Form.CONTINUED,
        conditions: Conditions = usual,
    ) -> str:
        parts = {name: [9 if name == other else at] for at, name in enumerate(names)}
        turn = EncodedTurn(LABEL, parts["asked"], parts["decided"], parts["answered"])
        wanted = Reading(form, EncodedTranscript(parts["opening"], parts["told"], [turn]))
        return states_key([model], [wanted], conditions)

    names = ("opening", "told", "asked", "decided", "answered")
    model.write_bytes(b"1")
    keys = {key(), key(form=Form.REBUILT), *map(key, names)}
    keys.add(key(conditions=Conditions(ContextSettings(n_batch=256), 1)))
    keys.add(key(conditions=replace(usual, with_nll=False)))
    assert key(conditions=replace(usual, num_threads=2)) in keys
    model.write_bytes(b"2")
    assert len({*keys, key()}) == 10
