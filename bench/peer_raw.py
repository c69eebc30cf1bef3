"""The floor: llama.cpp evaluates each new token once, and nothing else happens."""

import threading
import time
from collections import defaultdict
from collections.abc import Sequence

from bench.peers import PeerAsk, PeerReply
from runtime.llama_backend import Chunk, LlamaContext, Sampler
from runtime.prefix_cache import num_shared
from runtime.sampling import SamplingParams


class RawPeer:
    """One pass by the C API: what is new before `<STATE>`, `<STATE>` with embeddings, the reply.

    A conversation is a sequence of `context`, whose KV cells are kept; the context is its owner's
    to close. `others` fill cells beside it, each with a sequence of its own.
    """

    def __init__(
        self,
        context: LlamaContext,
        others: Sequence[Sequence[int]] = (),
        name: str = "llama.cpp alone",
    ) -> None:
        self.name = name
        self._context = context
        self._held: dict[int, list[int]] = defaultdict(list)
        self._lock = threading.Lock()
        for seq_id, tokens in enumerate(others, start=context.config.n_seq_max - len(others)):
            self._evaluate(seq_id, tokens)

    def ask(self, turn: PeerAsk) -> PeerReply:
        """See Peer. Raises DecodeError."""
        with self._lock:
            start = time.perf_counter()
            held, prompt = self._held[turn.conversation], turn.prompt
            num_kept = min(num_shared(held, list(prompt), 0), len(prompt) - 1)
            if not self._context.holds(turn.conversation, num_kept):
                num_kept = 0
            self._context.forget(turn.conversation, num_kept)
            del held[num_kept:]
            self._evaluate(turn.conversation, prompt[num_kept:-1])
            row = self._evaluate(turn.conversation, prompt[-1:], embeddings=True)
            vector = self._context.embedding(row)
            state = time.perf_counter()
            row = self._evaluate(turn.conversation, turn.decision)
            num_evaluated = len(held) - num_kept
            reply, first = self._reply(turn, row)
            end = time.perf_counter()
        return PeerReply(
            state_ms=(state - start) * 1e3,
            first_token_ms=(first - start) * 1e3,
            total_ms=(end - start) * 1e3,
            num_evaluated=num_evaluated,
            num_state=len(prompt) - num_kept,
            tokens=reply,
            state=vector,
        )

    def close(self) -> None:
        """Forget the conversations."""
        self._context.clear()
        self._held.clear()

    def _reply(self, turn: PeerAsk, row: int) -> tuple[list[int], float]:
        """The reply, and when its first token was there."""
        model, reply = self._context.model, list[int]()
        sampling = SamplingParams(temperature=0, max_tokens=turn.max_tokens)
        sampler = Sampler(sampling, model.n_vocab)
        try:
            token = sampler.sample(self._context, row)
            first = time.perf_counter()
            while not (model.is_end(token) or model.is_control(token)):
                reply.append(token)
                if len(reply) == turn.max_tokens:
                    break
                row = self._evaluate(turn.conversation, [token])
                token = sampler.sample(self._context, row)
        finally:
            sampler.close()
        return reply, first

    def _evaluate(
        self, conversation: int, tokens: Sequence[int], *, embeddings: bool = False
    ) -> int:
        """The row of the last token in the batch that it was in; only that one is an output."""
        held, size, row = self._held[conversation], self._context.config.n_batch, 0
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            is_last = start + size >= len(tokens)
            chunk = Chunk(conversation, len(held), part, is_output=is_last)
            (row,) = self._context.decode([chunk], embeddings=embeddings)
            held += part
        return row
