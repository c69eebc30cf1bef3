"""Settings of a llama.cpp context, apart from it: whoever only plans one needs no llama.cpp."""

from dataclasses import dataclass
from typing import Literal

MAX_SEQUENCES = 256
"""llama.cpp's own bound."""


@dataclass(frozen=True, slots=True)
class ContextConfig:
    """What a context is made with.

    `n_ctx` counts KV cells, shared by all sequences; `n_seq_max` is from 1 to 256. `n_threads`
    works on single tokens, `n_threads_batch` on prompts. Raises ValueError where a batch could not
    hold a token of each sequence.
    """

    n_ctx: int = 8192
    n_seq_max: int = 16
    n_batch: int = 512
    n_ubatch: int = 512
    n_threads: int = 2
    n_threads_batch: int = 2
    kv_type: Literal["f16", "q8_0", "f32"] = "f16"
    flash_attention: bool = True

    def __post_init__(self) -> None:
        highest = min(MAX_SEQUENCES, self.n_batch)
        if not 1 <= self.n_seq_max <= highest:
            raise ValueError(
                f"n_seq_max is {self.n_seq_max}; it must be from 1 to {highest} "
                f"(n_batch is {self.n_batch})"
            )
