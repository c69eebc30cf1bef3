"""Two models by llama-cpp-python's own API: one embeds the whole prompt, one completes it."""

import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import PeerAsk, PeerReply
from runtime.context_config import ContextConfig
from runtime.llama_backend import LlamaModel
from runtime.prefix_cache import num_shared
from runtime.prompt import Special
from runtime.sampling import SamplingParams

_LAST_TOKEN = 3
"""LLAMA_POOLING_TYPE_LAST: the vector of `<STATE>` alone comes back, which is cheapest."""
_PENALTY = SamplingParams().repetition_penalty


class TwoPassPeer:
    """`Llama.embed` for the state, `Llama.create_completion` for the reply.

    The second keeps the KV cells of what it saw last, as that class does by itself; the first
    begins anew each time, as that class must. Texts are embedded as `vocabulary` spells tokens.
    """

    name = "two passes"

    def __init__(
        self, path: Path, vocabulary: LlamaModel, *, num_tokens: int, num_threads: int
    ) -> None:
        from llama_cpp import Llama  # noqa: PLC0415 (brings web libraries)

        self._spelling = Spelling(vocabulary)
        settings: dict[str, Any] = {
            "model_path": str(path),
            "n_ctx": num_tokens,
            "n_threads": num_threads,
            "n_threads_batch": num_threads,
            "n_ubatch": ContextConfig().n_ubatch,
            "flash_attn": True,
            "swa_full": True,
            "verbose": False,
        }
        self._embedder: Any = Llama(
            **settings,
            n_batch=num_tokens,  # it cuts what is longer
            embedding=True,
            pooling_type=_LAST_TOKEN,
            tokenizer=self._spelling,
        )
        self._writer: Any = Llama(**settings, n_batch=ContextConfig().n_batch)
        self._lock = threading.Lock()

    def ask(self, turn: PeerAsk) -> PeerReply:
        """See Peer."""
        text = self._spelling.spell(turn.prompt)
        with self._lock:
            start = time.perf_counter()
            vector = self._embedder.embed(text)
            state = time.perf_counter()
            prompt = [*turn.prompt, *turn.decision]
            num_kept = num_shared(list(self._writer.eval_tokens), prompt, 0)
            pieces = self._writer.create_completion(
                prompt,
                max_tokens=turn.max_tokens,
                temperature=0,
                repeat_penalty=_PENALTY,
                stream=True,
            )
            said, first = [next(pieces)], time.perf_counter()
            said += pieces
            end = time.perf_counter()
        reply = "".join(piece["choices"][0]["text"] for piece in said)
        return PeerReply(
            state_ms=(state - start) * 1e3,
            first_token_ms=(first - start) * 1e3,
            total_ms=(end - start) * 1e3,
            num_evaluated=len(turn.prompt) + len(prompt) - num_kept,
            num_state=len(turn.prompt),
            tokens=self._spelling.tokenize(reply.encode()),
            state=np.array(vector, np.float32),
        )

    def close(self) -> None:
        """Free both models."""
        self._embedder.close()
        self._writer.close()


class Spelling:
    """Tokens as text and back, special tokens included: what `Llama` takes for a tokenizer.

    Its own tokenizer never parses special tokens from a text that is to be embedded.
    """

    def __init__(self, vocabulary: LlamaModel) -> None:
        self._vocabulary = vocabulary
        tokens = [vocabulary.find_token(special) for special in Special]
        tokens += [vocabulary.bos, vocabulary.eos]
        self._texts = {t: vocabulary.token_text(t) for t in tokens if t is not None}
        self._tokens = {text: token for token, text in self._texts.items()}
        self._parts = re.compile(f"({'|'.join(map(re.escape, self._tokens))})")

    def spell(self, tokens: Sequence[int]) -> str:
        """The text of `tokens`; bytes that are no text are replaced."""
        pieces = (
            self._texts[token].encode() if token in self._texts else self._vocabulary.piece(token)
            for token in tokens
        )
        return b"".join(pieces).decode("utf-8", errors="replace")

    def tokenize(self, text: bytes, *_: object, **__: object) -> list[int]:
        """Token ids of `text`, special tokens where it spells them; none is added.

        The package passes `add_bos` and `special` too.
        """
        parts = self._parts.split(text.decode("utf-8", errors="replace"))
        return [
            token
            for part in parts
            for token in (
                [self._tokens[part]] if part in self._tokens else self._vocabulary.tokenize(part)
            )
        ]
