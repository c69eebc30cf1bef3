"""How fast a model reads and writes."""

import time

from runtime.context_config import ContextConfig
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel

PREFILL_TOKENS, DECODE_TOKENS = 256, 48
_PROMPT = "The merchant looked at the sea and said: 오늘은 바람이 세니 배가 늦겠군요. "


def speed_config(num_threads: int) -> ContextConfig:
    """A context for `measure_speed`, and for any text of up to 1,024 tokens."""
    return ContextConfig(
        n_ctx=1024, n_seq_max=1, n_threads=num_threads, n_threads_batch=num_threads
    )


def measure_speed(model: LlamaModel, context: LlamaContext) -> tuple[float, float]:
    """Tokens a second of a prompt, and of single tokens after it; forgets all sequences."""
    tokens = (model.tokenize(_PROMPT) * PREFILL_TOKENS)[:PREFILL_TOKENS]
    context.clear()
    start = time.perf_counter()
    context.decode([Chunk(0, 0, tokens, is_output=True)])
    middle = time.perf_counter()
    for at in range(DECODE_TOKENS):
        position = PREFILL_TOKENS + at
        context.decode([Chunk(0, position, tokens[at : at + 1], is_output=True)])
    end = time.perf_counter()
    return PREFILL_TOKENS / (middle - start), DECODE_TOKENS / (end - middle)
