"""What the scheduler says and is told: bounds, batches, and what the KV cache has to do."""

from dataclasses import dataclass, field
from typing import TypeAlias

from runtime.sequence import EngineSequence


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the scheduler. `batch_tokens` is the token budget of one step."""

    sequences: int
    cells: int
    batch_tokens: int
    waiting: int
    residents: int = 0
    """Finished sequences that are kept; their ids come on top of `sequences`."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The next `count` tokens of a sequence, and whether the last one's outputs are wanted."""

    sequence: EngineSequence
    count: int
    is_output: bool

    @property
    def is_single(self) -> bool:
        """Whether it is one token whose output is wanted."""
        return self.count == 1 and self.is_output


@dataclass(frozen=True, slots=True)
class Forget:
    """Free the cells of a sequence from position `start` on."""

    seq_id: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class Share:
    """Let `target` have the first `end` cells of `source` too."""

    source: int
    target: int
    end: int


@dataclass(frozen=True, slots=True)
class Restore:
    """Fill the first `end` cells of an empty sequence from what is stored of its prefix."""

    seq_id: int
    end: int


@dataclass(frozen=True, slots=True)
class SwapOut:
    """Put the state of a sequence after `tokens`, the first it has, in the swap space.

    It is forgotten next: what comes after them may be lost already.
    """

    seq_id: int
    tokens: list[int]


@dataclass(frozen=True, slots=True)
class SwapIn:
    """Fill an empty sequence with a state, which has `end` tokens, of the swap space."""

    seq_id: int
    state: bytes
    end: int


CacheStep: TypeAlias = Forget | Share | Restore | SwapOut | SwapIn
"""What the KV cache has to do, in the order given."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One batch, and what the cache does first.

    With `embeddings` every token of it is an output, so prompts keep out of it.
    """

    slices: list[Slice]
    embeddings: bool
    steps: list[CacheStep] = field(default_factory=list)
    num_prompts: int = 0
    """Prompts that were to be read, those that wait for the first of them to be included."""

    @property
    def num_replies(self) -> int:
        """Sequences whose reply or `<STATE>` goes on."""
        return sum(part.is_single for part in self.slices)

    @property
    def num_prompt(self) -> int:
        """Tokens of prompts and decisions."""
        return sum(part.count for part in self.slices if not part.is_single)


@dataclass(frozen=True, slots=True)
class Admission:
    """A sequence that runs from now on, and what the cache does first."""

    sequence: EngineSequence
    steps: list[CacheStep]
