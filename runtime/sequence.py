"""One request on its way through the engine: the object that carries all of its state."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from runtime.sampling import MAX_SEED, SamplingParams
from runtime.text import TextStream

Vector = npt.NDArray[np.float32]
OnState: TypeAlias = Callable[[Vector], Sequence[int]]
"""Gets the `<STATE>` vector, float32 [n_embd]; gives the token ids that the reply follows.

Runs on the engine's thread, so it must take well under a millisecond.
"""

MAX_DECISION_TOKENS = 256
RETRY_TEMPERATURE = 0.7
"""At least this hot is a line asked for again: the coldest would only repeat itself."""


class FinishReason(StrEnum):
    """Why a reply ended."""

    STOP = "stop"
    LENGTH = "length"
    DEADLINE = "deadline"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Request:
    """What the engine is asked.

    With `on_state` the last token of `prompt` is `<STATE>`: its vector goes to the callback, whose
    tokens (at most MAX_DECISION_TOKENS) are appended before the reply is generated. Without it the
    reply follows the prompt at once. `deadline` is a time of `time.monotonic()`. Other
    requests too begin with the first so many tokens of the prompt as `prefixes` says, in rising
    order and fewer than all of it. `is_due` gets each piece of text as it is sampled and says
    whether what was not told yet is to be told now; without it, all is, and at the reply's end in
    any case. A reader who waits for sentences need not be woken for every token, which takes a core
    from llama.cpp each time. It runs on the engine's thread, as `on_state` does.
    """

    prompt: Sequence[int]
    sampling: SamplingParams = field(default_factory=SamplingParams)
    on_state: OnState | None = None
    deadline: float | None = None
    prefixes: Sequence[int] = ()
    is_due: Callable[[str], bool] | None = None

    def again(self, decided: Sequence[int]) -> "Request":
        """The same line asked for once more, of the next seed, after the decision that stands.

        Without `on_state` the prompt has it already. `is_due` is not taken over: it may remember
        what it heard.
        """
        sampling = self.sampling
        seed = None if sampling.seed is None else (sampling.seed + 1) % MAX_SEED
        temperature = max(sampling.temperature, RETRY_TEMPERATURE)
        return replace(
            self,
            prompt=[*self.prompt, *(decided if self.on_state else [])],
            sampling=replace(sampling, temperature=temperature, seed=seed),
            on_state=None,
            is_due=None,
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts; `cached_tokens` of the prompt were not evaluated again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Milliseconds since the request was submitted; None for what never happened.

    `queue` ends when a sequence is free, `prefill` when all before `<STATE>` is evaluated (the
    whole prompt, if it has no `<STATE>`), `state` when the vector is there, `first_token` when the
    first token is sampled.
    """

    queue: float | None
    prefill: float | None
    state: float | None
    first_token: float | None
    total: float | None


@dataclass(frozen=True, slots=True)
class State:
    """The `<STATE>` vector; the callback has had it already."""

    vector: Vector


@dataclass(frozen=True, slots=True)
class Token:
    """Text of the reply: whole characters, of one or several tokens."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    """The end of a reply. `tokens` are those sampled, the end token not included."""

    finish_reason: FinishReason
    tokens: tuple[int, ...]
    usage: Usage
    timings: Timings


@dataclass(frozen=True, slots=True)
class Failed:
    """The request could not be finished."""

    error: Exception


Event: TypeAlias = State | Token | Done | Failed


@dataclass(slots=True, eq=False)
class Stopwatch:
    """Times of one request, in seconds of `time.monotonic()`."""

    submitted: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note that `name` is reached now; the first time counts."""
        self.marks.setdefault(name, time.monotonic())

    def timings(self) -> Timings:
        """The marks in milliseconds since submission."""
        names = ("queue", "prefill", "state", "first_token", "total")
        spans = {n: (self.marks[n] - self.submitted) * 1e3 for n in names if n in self.marks}
        return Timings(**{name: spans.get(name) for name in names})


class TokenSampler(Protocol):
    """Draws tokens from the logits of a context; `llama_backend.Sampler` is one."""

    def sample(self, context: Any, row: int) -> int:
        """Draw a token from the logits at a row of the last batch."""

    def close(self) -> None:
        """Free what the sampler holds."""


@dataclass(slots=True, eq=False)
class EngineSequence:
    """A request, its tokens, and how many of them the KV cache holds."""

    request: Request
    emit: Callable[[Event], None]
    tokens: list[int] = field(init=False)
    text: TextStream = field(init=False)
    num_evaluated: int = 0
    num_decision: int = 0
    num_cached: int = 0
    num_preempted: int = 0
    """How often its cells were taken for an older one's; it begins again each time."""
    seq_id: int | None = None
    sampler: TokenSampler | None = None
    is_state_due: bool = field(init=False)
    is_cancelled: bool = False
    untold: str = ""
    """Text that was sampled, but is not due yet."""
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        self.text = TextStream(self.request.sampling.stop)
        self.is_state_due = self.request.on_state is not None

    @property
    def num_prompt(self) -> int:
        """Tokens that were given, not generated: the prompt and the decision."""
        return len(self.request.prompt) + self.num_decision

    @property
    def reply(self) -> list[int]:
        """Tokens sampled so far."""
        return self.tokens[self.num_prompt :]

    @property
    def num_sampled(self) -> int:
        """How many they are."""
        return len(self.tokens) - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Known tokens that the KV cache does not hold yet."""
        return len(self.tokens) - self.num_evaluated

    @property
    def is_replying(self) -> bool:
        """Whether the next evaluation is that of the token sampled last."""
        is_prefilled = self.num_evaluated >= self.num_prompt and self.num_pending == 1
        return is_prefilled and not self.is_state_due

    @property
    def is_decided(self) -> bool:
        """Whether nothing but the decision is to be evaluated before the reply."""
        return 0 < self.num_pending <= self.num_decision and not self.is_replying

    @property
    def is_at_state(self) -> bool:
        """Whether the next token to evaluate is `<STATE>`."""
        return self.is_state_due and self.num_pending == 1

    @property
    def num_cells_needed(self) -> int:
        """KV cells that this request can need at most."""
        decision = MAX_DECISION_TOKENS if self.is_state_due else self.num_decision
        return len(self.request.prompt) + decision + self.request.sampling.max_tokens

    def is_late(self, now: float) -> bool:
        """Whether the deadline has passed at `now`."""
        return self.request.deadline is not None and now >= self.request.deadline

    def decide(self, decision: Sequence[int]) -> None:
        """Append what `on_state` gave; the reply follows it."""
        self.tokens += decision
        self.num_decision = len(decision)
        self.is_state_due = False

    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(self.num_prompt, self.num_cached, self.num_sampled)

    def take_due(self, text: str) -> str:
        """What is to be told now that `text` was sampled, possibly nothing."""
        self.untold += text
        if self.request.is_due is not None and not self.request.is_due(text):
            return ""
        return self.take_untold()

    def take_untold(self) -> str:
        """All that was not told yet."""
        text, self.untold = self.untold, ""
        return text
