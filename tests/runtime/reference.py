"""What llama.cpp gives without the engine: two passes, and the plainest loop."""

from collections.abc import Sequence

import numpy as np

from runtime.context_config import ContextConfig
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel, Vector
from tests.runtime.driving import EXACT, open_context


def prefill(context: LlamaContext, tokens: Sequence[int], start: int = 0) -> None:
    """Evaluate tokens of sequence 0 without outputs, in full batches."""
    for at in range(start, len(tokens), context.config.n_batch):
        part = tokens[at : at + context.config.n_batch]
        context.decode([Chunk(0, at, part, is_output=False)])


def two_pass(
    model: LlamaModel, config: ContextConfig, prompt: Sequence[int], decision: Sequence[int]
) -> tuple[Vector, Vector]:
    """STATE vector and first-token logits by two evaluations from nothing: embed, then complete."""
    end = len(prompt)
    with open_context(model, config) as context:
        prefill(context, prompt[:-1])
        (row,) = context.decode([Chunk(0, end - 1, prompt[-1:], is_output=True)], embeddings=True)
        state = context.embedding(row)
    with open_context(model, config) as context:
        prefill(context, prompt[:-1])
        context.decode([Chunk(0, end - 1, prompt[-1:], is_output=False)])
        (row,) = context.decode([Chunk(0, end, decision, is_output=True)])
        return state, context.logits(row)


def plain_greedy(
    model: LlamaModel, tokens: Sequence[int], count: int, penalty: float = 1.0
) -> list[int]:
    """`count` tokens by the plainest loop: one token a decode, then the likeliest one."""
    reply: list[int] = []
    with open_context(model, EXACT) as context:
        for at, token in enumerate(tokens):
            (row,) = context.decode([Chunk(0, at, [token], is_output=True)])
        while len(reply) < count:
            best = int(penalise(context.logits(row), reply, penalty).argmax())
            if model.is_end(best) or model.is_control(best):
                break
            at = len(tokens) + len(reply)
            reply.append(best)
            (row,) = context.decode([Chunk(0, at, [best], is_output=True)])
    return reply


def penalise(logits: Vector, reply: Sequence[int], penalty: float) -> Vector:
    """Less likely what the reply has said: CTRL's penalty (arXiv:1909.05858, section 4.1)."""
    said = sorted(set(reply))
    logits[said] = np.where(logits[said] > 0, logits[said] / penalty, logits[said] * penalty)
    return logits
