"""What is counted: a prompt, then single tokens, without and with the output matrix.

    python3.11 work.py MODEL PROMPT_TOKENS STEPS LAYOUT

Runs in the image, on one thread; sched_yield marks where a part begins and ends.
"""

import os
import sys
from pathlib import Path

from runtime.context_config import ContextConfig
from runtime.llama_backend import Chunk, LlamaContext, LlamaModel

TOKEN = 100


def main(path: Path, num_prompt: int, num_steps: int, layout: str) -> None:
    """Load, then work between marks."""
    model = LlamaModel(path, repack=layout == "repacked")
    config = ContextConfig(n_ctx=512, n_seq_max=1, n_threads=1, n_threads_batch=1)
    context = LlamaContext(model, config)
    context.warm_up()
    os.sched_yield()
    context.decode([Chunk(0, 0, [TOKEN] * num_prompt, is_output=False)])
    os.sched_yield()
    position = num_prompt
    for is_output in (False, True):
        for _ in range(num_steps):
            context.decode([Chunk(0, position, [TOKEN], is_output=is_output)])
            position += 1
        os.sched_yield()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
