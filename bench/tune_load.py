"""What `persona tune` times: turns of a conversation, replies together, a first prompt.

The prompts are written from the world that is served. Batches are as the engine makes them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from bench.tune_search import Figure, Setup
from heads.bundle import ContextSettings
from rag.prompting import npc_for_prompt
from rag.searchable import searchable
from rag.world import World
from runtime.context_config import ContextConfig
from runtime.encoder import PromptEncoder
from runtime.errors import ModelError
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel
from runtime.prompt import Transcript

NUM_CACHED, NUM_NEW, NUM_REPLY = 600, 60, 24
NUM_FIRST = 512
NUM_TOGETHER = 8

_SPARE = NUM_TOGETHER
_NUM_SEQUENCES = NUM_TOGETHER + 1
_NUM_CELLS = NUM_TOGETHER * (NUM_CACHED + NUM_REPLY) + max(NUM_FIRST, NUM_NEW + NUM_REPLY)

MEANINGS: dict[Figure, str] = {
    "turn": f"{NUM_NEW} new tokens on {NUM_CACHED} cached ones, to the state, and a reply of "
    f"{NUM_REPLY} tokens",
    "replies": f"{NUM_REPLY} tokens of each of {NUM_TOGETHER} conversations, together",
    "first": f"a prompt of {NUM_FIRST} tokens, nothing cached",
    "step": "the longest step of that prompt: a deadline or a cancelled request waits for it",
}


def write_prompt(world: World, encoder: PromptEncoder) -> list[int]:
    """Tokens that all prompts are cut from: who each NPC is, and what the world tells."""
    personas = world.npcs.values()
    segments = [
        segment
        for persona in personas
        for segment in Transcript().begin(npc_for_prompt(persona, persona.lang))
    ]
    tokens = encoder.begin([*segments, *searchable(world.documents).texts()])
    most = NUM_CACHED + NUM_FIRST
    return (tokens * (1 + most // len(tokens)))[:most]


class Workload:
    """Measures setups; a context of each, with `NUM_TOGETHER` conversations, until `close`."""

    def __init__(
        self, model: LlamaModel, tokens: Sequence[int], state_id: int, settings: ContextSettings
    ) -> None:
        self._model, self._settings = model, settings
        self._cached, self._other = tokens[:NUM_CACHED], tokens[NUM_CACHED:]
        self._state_id = state_id
        self._contexts: dict[Setup, LlamaContext] = {}
        self._states: dict[str, bytes] = {}
        """What a conversation holds in the cache, by KV type."""

    def close(self) -> None:
        """Free the contexts."""
        while self._contexts:
            self._contexts.popitem()[1].close()

    def measure(self, setup: Setup, figures: Sequence[Figure]) -> Mapping[Figure, float] | None:
        """Seconds of each figure; None if llama.cpp has no context with this KV type."""
        if setup not in self._contexts:
            try:
                self._open(setup)
            except ModelError:
                if setup.kv_type == self._settings.kv_type:
                    raise
                return None
            self._run(setup, figures)  # the first run warms caches
        return self._run(setup, figures)

    def _open(self, setup: Setup) -> None:
        context = LlamaContext(self._model, self._config(setup))
        self._contexts[setup] = context
        if setup.kv_type not in self._states:
            for _ in self._evaluate(context, 0, self._cached):
                pass
            self._states[setup.kv_type] = context.save(0)
        for seq_id in range(NUM_TOGETHER):
            context.forget(seq_id)
            is_whole = context.restore(seq_id, self._states[setup.kv_type])
            assert is_whole, "llama.cpp takes back what it gave"

    def _config(self, setup: Setup) -> ContextConfig:
        return ContextConfig(
            n_ctx=_NUM_CELLS,
            n_seq_max=_NUM_SEQUENCES,
            n_batch=setup.step_tokens,
            n_ubatch=setup.ubatch_tokens,
            n_threads=setup.threads,
            n_threads_batch=setup.threads_batch,
            kv_type=setup.kv_type,
            flash_attention=self._settings.flash_attention,
        )

    def _run(self, setup: Setup, figures: Sequence[Figure]) -> dict[Figure, float]:
        context = self._contexts[setup]
        found: dict[Figure, float] = {}
        if "turn" in figures:
            found["turn"] = _seconds(lambda: self._turn(context))
            context.forget(_SPARE)
        if "replies" in figures:
            found["replies"] = _seconds(lambda: self._replies(context))
            for seq_id in range(NUM_TOGETHER):
                context.forget(seq_id, NUM_CACHED)
        if "first" in figures or "step" in figures:
            steps = list(self._evaluate(context, _SPARE, self._other[:NUM_FIRST]))
            context.forget(_SPARE)
            found |= {"first": sum(steps), "step": max(steps)}
        return {figure: found[figure] for figure in figures}

    def _turn(self, context: LlamaContext) -> None:
        context.share(0, _SPARE, NUM_CACHED)
        for _ in self._evaluate(context, _SPARE, self._other[: NUM_NEW - 1], NUM_CACHED):
            pass
        at = NUM_CACHED + NUM_NEW - 1
        (row,) = context.decode([Chunk(_SPARE, at, [self._state_id], True)], embeddings=True)
        context.embedding(row)
        for offset in range(NUM_REPLY):
            token = self._other[offset]
            (row,) = context.decode([Chunk(_SPARE, at + 1 + offset, [token], True)])
        context.logits(row)

    def _replies(self, context: LlamaContext) -> None:
        for offset in range(NUM_REPLY):
            token, at = self._other[offset], NUM_CACHED + offset
            rows = context.decode([Chunk(s, at, [token], True) for s in range(NUM_TOGETHER)])
        context.logits(rows[-1])

    def _evaluate(
        self, context: LlamaContext, seq_id: int, tokens: Sequence[int], start: int = 0
    ) -> Iterator[float]:
        """Evaluate a prompt, a step at a time; seconds of each."""
        size = context.config.n_batch
        for at in range(0, len(tokens), size):
            part = tokens[at : at + size]
            chunk = Chunk(seq_id, start + at, part, is_output=at + size >= len(tokens))
            yield _seconds(partial(context.decode, [chunk]))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
