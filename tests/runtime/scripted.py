"""Samplers that draw what a test says, so that a random model ends a reply when it should."""

from collections.abc import Sequence
from itertools import cycle

import pytest

from runtime.llama_backend import LlamaContext
from runtime.sampling import SamplingParams


def script_samplers(monkeypatch: pytest.MonkeyPatch, tokens: Sequence[int]) -> list[object]:
    """Makes every request draw `tokens` in order, over and over; the samplers not yet closed."""
    still_open: list[object] = []

    class ScriptedSampler:
        def __init__(self, params: SamplingParams, n_vocab: int) -> None:
            self._tokens = cycle(tokens)
            still_open.append(self)

        def sample(self, context: LlamaContext, row: int) -> int:
            assert context.logits(row).any(), "a real sampler would read these"
            return next(self._tokens)

        def close(self) -> None:
            still_open.remove(self)

    monkeypatch.setattr("runtime.engine.Sampler", ScriptedSampler)
    return still_open
