"""Logits of a GGUF in llama.cpp and of a transformers model, to be compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.context_config import ContextConfig
from runtime.llama_backend import LlamaContext, LlamaModel

Floats = npt.NDArray[np.float32]


def llama_logits(path: Path, tokens: Sequence[int], *, kv_type: Any = "f32") -> Floats:
    """Logits of every position, [len(tokens), n_vocab]."""
    model = LlamaModel(path)
    config = ContextConfig(n_ctx=512, n_seq_max=1, kv_type=kv_type, flash_attention=False)
    context = LlamaContext(model, config)
    logits = context.evaluate(tokens)
    context.close()
    model.close()
    return logits


def torch_logits(model: Any, tokens: Sequence[int]) -> Floats:
    """Logits of every position, [len(tokens), n_vocab]."""
    import torch  # noqa: PLC0415

    with torch.no_grad():
        return np.asarray(model(input_ids=torch.tensor([list(tokens)])).logits[0])


def tolerance(architecture: str) -> float:
    """How far logits of llama.cpp and transformers may lie apart on an F32 model.

    ggml looks GELU up in a table of 16-bit floats; SiLU it computes.
    """
    return 2e-3 if architecture == "gemma3" else 2e-4
