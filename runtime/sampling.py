"""How the next token is chosen: parameters only; the sampler itself is llama.cpp's."""

from dataclasses import dataclass

MAX_SEED = 2**32 - 2


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Applied in this order: repetition penalty, top_k, top_p, min_p, temperature, seeded draw.

    `temperature` 0 (and below 0.0001) is greedy and ignores top_k, top_p, min_p and seed. `top_k`
    0, `top_p` 1 and `min_p` 0 are off. Without a `seed` one is drawn. `stop` strings end the reply
    and are not part of it. Raises ValueError for a value out of range.
    """

    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repetition_penalty: float = 1.1
    seed: int | None = None
    max_tokens: int = 96
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _check("temperature", self.temperature, 0, 5)
        _check("top_k", self.top_k, 0, 1_000)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("repetition_penalty", self.repetition_penalty, 0.1, 10)
        _check("max_tokens", self.max_tokens, 1, 4_096)
        _check("seed", self.seed or 0, 0, MAX_SEED)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; it must be from {low} to {high}")
