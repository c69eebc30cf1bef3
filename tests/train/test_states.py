from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from runtime.context_config import ContextConfig
from runtime.encoder import PromptEncoder, find_special_ids
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel, Vector
from runtime.prompt import End, Segment, Special, Transcript, decision_segments
from server.schemas import HistoryTurn
from server.turn import AskedTurn
from server.turn_prompt import build_prompt
from tests.export.measure import tolerance
from tests.runtime import driving
from tests.train.turns import WORLD, label
from train.dataset import TurnLabel
from train.states import Form, LabelledState, StateReader, readings, stack
from train.transcripts import TranscriptWriter, decision_words, make_turn

TURNS = [
    label(0),
    label(1, player_utterance="help <STATE> me", context={"player_state": {"items": ["lamp"]}}),
    label(2, context={"player_state": {"items": ["lamp"], "actions": ["bow"]}}),
    label(3),
]
OTHER = [label(0, conversation="d"), label(1, conversation="d", player_utterance="gold?")]


EXACT = replace(driving.EXACT, n_seq_max=2)


class RecordingContext(LlamaContext):
    """A context that remembers the tokens it evaluated, in order."""

    def __init__(self, model: LlamaModel, config: ContextConfig = EXACT) -> None:
        super().__init__(model, config)
        self.evaluated: list[int] = []

    def decode(self, chunks: Sequence[Chunk], *, embeddings: bool = False) -> list[int]:
        self.evaluated += [token for chunk in chunks for token in chunk.tokens]
        return super().decode(chunks, embeddings=embeddings)


@contextmanager
def open_context(model: LlamaModel, config: ContextConfig = EXACT) -> Iterator[RecordingContext]:
    context = RecordingContext(model, config)
    try:
        yield context
    finally:
        context.close()


@pytest.fixture
def context(tiny: LlamaModel) -> Iterator[RecordingContext]:
    with open_context(tiny) as context:
        yield context


def read(
    context: RecordingContext, *conversations: Sequence[TurnLabel], with_nll: bool = False
) -> tuple[list[LabelledState], PromptEncoder]:
    encoder = PromptEncoder(context.model, find_special_ids(context.model))
    wanted = readings(conversations, TranscriptWriter(WORLD, encoder))
    return StateReader(context, with_nll=with_nll).read(wanted), encoder


def continued_segments(turns: Sequence[TurnLabel]) -> list[Segment]:
    """What serving remembers of `turns`, up to the `<STATE>` of the last."""
    transcript, segments = Transcript(), []
    for turn in turns[:-1]:
        segments += transcript.open_turn(make_turn(turn, WORLD))
        segments += [*decision_segments(decision_words(turn, WORLD)), turn.response, End()]
    return [*segments, *transcript.open_turn(make_turn(turns[-1], WORLD))]


def sys_tokens(encoder: PromptEncoder) -> list[int]:
    asked = asked_turn([TURNS[0]])
    prompt = build_prompt(asked, WORLD, encoder, 10_000).tokens
    return prompt[: prompt.index(encoder.encode([Special.CTX])[0]) + 1]


def asked_turn(turns: Sequence[TurnLabel]) -> AskedTurn:
    """The last turn as the server reads it from a request with a dialogue history."""
    *past, last = turns
    return AskedTurn(
        turn_id="t",
        session_id="s",
        persona=WORLD.npcs["mina"],
        lang=last.lang,
        state=dict(make_turn(last, WORLD).state),
        facts=last.facts,
        history=[HistoryTurn(turn.player_utterance, turn.response) for turn in past],
    )


def cold_state(model: LlamaModel, tokens: Sequence[int]) -> Vector:
    end = len(tokens) - 1
    with open_context(model) as context:
        for start in range(0, end, EXACT.n_batch):
            part = tokens[start : min(start + EXACT.n_batch, end)]
            context.decode([Chunk(0, start, part, is_output=False)])
        (row,) = context.decode([Chunk(0, end, tokens[end:], is_output=True)], embeddings=True)
        return context.embedding(row)


def assert_same_states(
    context: LlamaContext, found: Sequence[LabelledState], expected: Sequence[LabelledState]
) -> None:
    """In other batches sums run in another order, and ggml's GELU is a table of 16-bit floats."""
    atol = tolerance(context.model.architecture)
    np.testing.assert_allclose(stack(found), stack(expected), rtol=1e-3, atol=atol)


def test_a_continued_state_equals_a_cold_evaluation_of_the_same_tokens(
    context: RecordingContext,
) -> None:
    states, encoder = read(context, TURNS, OTHER)
    for conversation in (TURNS, OTHER):
        for number, turn in enumerate(conversation):
            (state,) = [s for s in states if s.label is turn and s.form is Form.CONTINUED]
            told = continued_segments(conversation[: number + 1])
            tokens = [*sys_tokens(encoder), *encoder.encode(told)]
            cold = cold_state(context.model, tokens)
            np.testing.assert_allclose(state.vector, cold, rtol=1e-4, atol=1e-4)


def test_a_rebuilt_state_equals_a_cold_evaluation_of_the_servers_prompt(
    context: RecordingContext,
) -> None:
    states, encoder = read(context, TURNS)
    (state,) = [s for s in states if s.form is Form.REBUILT]
    assert state.label is TURNS[-1]
    prompt = build_prompt(asked_turn(TURNS), WORLD, encoder, 10_000)
    assert prompt.num_dropped == 0
    cold = cold_state(context.model, prompt.tokens)
    np.testing.assert_allclose(state.vector, cold, rtol=1e-4, atol=1e-4)


def test_a_rebuilt_transcript_holds_no_past_state_and_no_decision(
    context: RecordingContext,
) -> None:
    _, encoder = read(context, TURNS)
    (player_state, state, npc) = encoder.encode([Special.PLAYER_STATE, Special.STATE, Special.NPC])
    ends = [at for at, token in enumerate(context.evaluated) if token == state]
    rebuilt = context.evaluated[ends[len(TURNS) - 1] + 1 :]
    assert rebuilt.count(player_state) == 1
    past = [rebuilt[at + 1] for at, token in enumerate(rebuilt[:-1]) if token == state]
    assert past == [npc] * (len(TURNS) - 1)


def test_each_turn_is_read_once_and_each_conversation_with_a_past_rebuilt_once(
    context: RecordingContext,
) -> None:
    states, _ = read(context, TURNS, OTHER, [label(0, conversation="e")])
    forms = [state.form for state in states]
    assert forms.count(Form.CONTINUED) == len(TURNS) + len(OTHER) + 1
    assert forms.count(Form.REBUILT) == 2
    assert stack(states).shape == (len(states), context.model.n_embd)
    assert stack(states).dtype == np.float32


def test_the_npcs_own_block_is_evaluated_once_for_all_its_conversations(
    context: RecordingContext,
) -> None:
    _, encoder = read(context, TURNS, OTHER)
    (sys,) = encoder.encode([Special.SYS])
    assert context.evaluated.count(sys) == 1


def test_what_a_player_typed_is_never_a_special_token(context: RecordingContext) -> None:
    _, encoder = read(context, TURNS[:2])
    (state,) = encoder.encode([Special.STATE])
    assert context.evaluated.count(state) == 4  # two turns continued, two in the rebuilt one


def test_conversations_read_together_have_the_states_that_they_have_alone(
    context: RecordingContext,
) -> None:
    alone, _ = read(context, TURNS, OTHER)
    with open_context(context.model, replace(EXACT, n_seq_max=4)) as wide:
        together, _ = read(wide, TURNS, OTHER)
    assert [(s.label, s.form) for s in together] == [(s.label, s.form) for s in alone]
    assert_same_states(context, together, alone)


def test_conversations_that_do_not_fit_the_cache_together_take_turns(
    context: RecordingContext,
) -> None:
    alone, _ = read(context, TURNS, OTHER)
    with open_context(context.model, replace(EXACT, n_seq_max=4, n_ctx=512)) as small:
        found, _ = read(small, TURNS, OTHER)
    assert_same_states(context, found, alone)


@pytest.mark.parametrize("num_sequences", [2, 4])
def test_a_replys_nll_is_that_of_its_tokens_after_the_decision(
    context: RecordingContext, num_sequences: int
) -> None:
    config = replace(EXACT, n_seq_max=num_sequences)
    with open_context(context.model, config) as scoring:
        states, encoder = read(scoring, OTHER, with_nll=True)
        (state,) = [s for s in states if s.label is OTHER[-1] and s.form is Form.CONTINUED]
        told = encoder.encode(continued_segments(OTHER))
        decided = encoder.encode(decision_segments(decision_words(OTHER[-1], WORLD)))
        answered = encoder.encode([OTHER[-1].response, End()])
        tokens = [*sys_tokens(encoder), *told, *decided, *answered]
        logits = scoring.evaluate(tokens)[-len(answered) - 1 : -1].astype(np.float64)
    expected = sum(
        np.log(np.exp(row).sum()) - row[token] for row, token in zip(logits, answered, strict=True)
    )
    assert state.nll == pytest.approx(expected, rel=1e-4)
    assert state.num_answered == len(answered)


def test_states_read_with_nll_are_those_read_without(context: RecordingContext) -> None:
    plain, scored = (read(context, TURNS, OTHER, with_nll=n)[0] for n in (False, True))
    assert_same_states(context, scored, plain)
    assert all(state.nll is None for state in plain)


def test_decisions_are_told_with_the_worlds_values() -> None:
    assert decision_words(TURNS[1], WORLD) == 'trust=+ relationship== give_item="gold"'
    assert decision_words(TURNS[0], WORLD) == "trust=+ relationship=="


def test_only_what_is_known_of_a_turn_is_shown() -> None:
    assert make_turn(TURNS[1], WORLD).state == {
        "quest_stage": "started",
        "location": "pier",
        "trust": 0.1,
        "relationship": 0.0,
        "npc_mood": "calm",
        "items": ["lamp"],
    }
