"""What the engine is held against: other ways to get a state and a reply from the same weights.

Each peer is one way; `peer_*.py` has them. All are asked in token ids, so that they read the same
prompt, and each finds by its own means what it need not evaluate again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import RuntimeFault
from runtime.llama_backend import Vector


class PeerFailed(RuntimeFault):
    """A peer cannot be started, or gave something else than an answer."""


@dataclass(frozen=True, slots=True)
class PeerAsk:
    """One turn: `prompt` is all of it, up to and with `<STATE>`; `decision` follows the state."""

    prompt: Sequence[int]
    decision: Sequence[int]
    max_tokens: int
    conversation: int = 0
    """Number of the conversation that the turn belongs to, from 0."""


@dataclass(frozen=True, slots=True)
class PeerReply:
    """When what was there, in milliseconds since the peer was asked, and what it cost."""

    state_ms: float
    first_token_ms: float
    total_ms: float
    num_evaluated: int
    """Tokens of prompt and decision that were evaluated, a token as often as it was."""
    num_state: int
    """How many of them came before the state."""
    tokens: Sequence[int]
    """The reply, without its end."""
    state: Vector
    """Of `<STATE>`: float32 [n_embd]."""

    @property
    def num_reply(self) -> int:
        """Tokens of the reply."""
        return len(self.tokens)


class Peer(Protocol):
    """Somebody who can be asked. Answers are greedy."""

    name: str

    def ask(self, turn: PeerAsk) -> PeerReply:
        """Blocks until the reply is whole; may be called from several threads.

        Raises PeerFailed or another RuntimeFault.
        """

    def close(self) -> None:
        """Let go of weights, caches and processes."""
