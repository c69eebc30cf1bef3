"""The default bundle decides the same, whatever company a prompt is evaluated in."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

import numpy as np
import pytest

from heads.bundle import load_bundle
from heads.session import HeadsSession
from rag.prompting import npc_for_prompt
from rag.world import World, load_world
from runtime.encoder import PromptEncoder
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel, Vector
from runtime.prompt import End, Segment, Transcript, decision_segments
from runtime.sequence import Request
from tests.runtime.driving import SMALL, by_hand, greedy, make_encoder, open_context
from tests.runtime.heads_agreement import (
    MAX_SHARE_OF_A_TURN,
    assert_heads_agree,
    shares_of_a_turn,
)
from tests.runtime.reference import prefill
from train.dataset import TurnLabel, conversations, read_turns
from train.transcripts import decision_words, make_turn, remark_of

WORLD = Path("worlds/mulmaru")
NUM_CONVERSATIONS = 2
"""For each NPC, of at least three turns: together over 300 flag decisions."""


def write_prompts(
    turns: Sequence[TurnLabel], world: World, encoder: PromptEncoder
) -> list[list[int]]:
    """The prompt of each turn of a conversation, as the server's transcript would hold it."""
    transcript = Transcript()
    npc = npc_for_prompt(world.npcs[turns[0].npc_id], turns[0].lang)
    segments: list[Segment] = transcript.begin(npc)
    prompts = []
    for turn in turns:
        segments += transcript.open_turn(make_turn(turn, world))
        prompts.append(encoder.begin(segments))
        segments += [*decision_segments(decision_words(turn, world)), turn.response, End()]
    return prompts


def read_conversations() -> list[Sequence[TurnLabel]]:
    """Some conversations with each NPC."""
    chosen: list[Sequence[TurnLabel]] = []
    for path in sorted((WORLD / "data" / "validation").glob("*.jsonl")):
        long = (turns[:3] for turns in conversations(read_turns([path])).values() if len(turns) > 2)
        chosen += islice(long, NUM_CONVERSATIONS)
    return chosen


def state_alone(context: LlamaContext, prompt: Sequence[int]) -> Vector:
    """The STATE vector of a prompt that nothing else is evaluated with."""
    context.clear()
    prefill(context, prompt[:-1])
    chunk = Chunk(0, len(prompt) - 1, prompt[-1:], is_output=True)
    (row,) = context.decode([chunk], embeddings=True)
    return context.embedding(row)


@pytest.mark.gemma
def test_default_bundle_decides_the_same_in_company_as_alone(
    gemma: LlamaModel, default_bundle: Path
) -> None:
    bundle = load_bundle(default_bundle, verify_hashes=False)
    spec = bundle.manifest.heads
    session = HeadsSession(bundle.heads, spec, bundle.manifest.n_embd)
    thresholds = np.array([flag.threshold for flag in spec.flags])

    world, chosen = load_world(WORLD), read_conversations()
    clues = [session.find(remark_of(turn, world)) for turn in chain(*chosen)]

    def heads(states: Vector) -> tuple[Vector, Vector]:
        delta, scores = session.predict_batch(states, clues)
        return delta, (scores >= thresholds).astype(np.float32)

    encoder, config = make_encoder(gemma), replace(SMALL, n_ctx=8192, n_seq_max=8, n_batch=512)
    talks = [write_prompts(turns, world, encoder) for turns in chosen]
    end = encoder.encode(decision_segments("trust=+"))
    with open_context(gemma, config) as context:
        alone = [[state_alone(context, prompt) for prompt in talk] for talk in talks]
    with by_hand(gemma, config) as bench:
        requests = [Request(p, greedy(4), lambda _: end) for p in chain(*talks)]
        clients = iter(bench.finish(*requests))
    together = [[next(clients).states[0] for _ in talk] for talk in talks]

    expected, found = list(chain(*alone)), list(chain(*together))
    assert len(expected) * len(spec.flags) > 100
    assert any((a != b).any() for a, b in zip(expected, found, strict=True)), "shapes differ"
    assert_heads_agree(expected, found, heads)
    shares = [shares_of_a_turn(a, b) for a, b in zip(alone, together, strict=True)]
    assert max(chain(*shares)) <= MAX_SHARE_OF_A_TURN
