"""A model and a context of llama.cpp: weights, vocabulary, KV cache, batches, samplers.

Uses the C API by ctypes: the package's own batch class restarts positions and knows one sequence
only. Nothing here is thread-safe; one thread owns a context.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import llama_cpp.llama_cpp as C  # noqa: N812 (the C API)
import numpy as np
import numpy.typing as npt

from runtime.context_config import ContextConfig
from runtime.errors import DecodeError, ModelError
from runtime.llama_library import forget_errors, last_error, start_llama
from runtime.sampling import MAX_SEED, SamplingParams

Vector = npt.NDArray[np.float32]

_GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
_PIECE_BYTES = 256
_WARM_UP_TOKENS = 64
_PENALTY_TOKENS = 64
_LOWEST_TEMPERATURE = 1e-4  # logits divided by less may overflow; it is greedy anyway


class LlamaModel:
    """Weights and vocabulary of one GGUF; only the vocabulary with `vocab_only`.

    `repack` lays weights out anew for the CPU's kernels where llama.cpp knows a faster way.
    Raises ModelError when llama.cpp cannot load the file.
    """

    def __init__(self, path: Path, *, vocab_only: bool = False, repack: bool = True) -> None:
        start_llama()
        if not path.is_file():
            raise ModelError(f"{path}: no such file; build or pull the bundle that should hold it")
        params = C.llama_model_default_params()
        params.vocab_only, params.use_extra_bufts = vocab_only, repack
        forget_errors()
        self.path = path
        self.handle = C.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelError(f"{path}: not a model that llama.cpp can load: {last_error()}")
        self._vocab = C.llama_model_get_vocab(self.handle)
        self.n_vocab: int = C.llama_vocab_n_tokens(self._vocab)
        self.n_ctx_train: int = C.llama_model_n_ctx_train(self.handle)
        self.n_swa: int = C.llama_model_n_swa(self.handle)
        """Positions that a layer with sliding-window attention sees; 0 if all layers see all."""
        self.architecture = self.metadata("general.architecture") or "unknown"
        # llama_model_n_embd says 0 when only the vocabulary was loaded
        self.n_embd = int(self.metadata(f"{self.architecture}.embedding_length") or 0)
        self.bos = self._token_or_none(C.llama_vocab_bos(self._vocab))
        eos = self._token_or_none(C.llama_vocab_eos(self._vocab))
        if eos is None:
            raise ModelError(f"{path}: the vocabulary has no end-of-sequence token")
        self.eos: int = eos
        self._piece_buffer = ctypes.create_string_buffer(_PIECE_BYTES)
        # each token is asked for once, since every call gives the GIL away
        self._spelt = cache(self._read_piece)
        self._is_end = cache(partial(C.llama_vocab_is_eog, self._vocab))
        self._is_control = cache(partial(C.llama_vocab_is_control, self._vocab))
        self._ids: dict[str, int] | None = None

    def close(self) -> None:
        """Free the weights. Contexts made from them must be closed first."""
        if self.handle:
            C.llama_model_free(self.handle)
            self.handle = None

    def metadata(self, key: str) -> str | None:
        """A metadata value as text."""
        buffer = ctypes.create_string_buffer(1024)
        size = C.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return None if size < 0 else buffer.value.decode("utf-8", errors="replace")

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`. No special tokens are parsed from it and no BOS is added."""
        raw = text.encode("utf-8")
        capacity = len(raw) + 16
        buffer = (C.llama_token * capacity)()
        count = C.llama_tokenize(self._vocab, raw, len(raw), buffer, capacity, False, False)
        assert count >= 0, "a token covers at least one byte"
        return list(buffer[:count])

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for; empty for control tokens."""
        return self._spelt(token)

    def _read_piece(self, token: int) -> bytes:
        size = C.llama_token_to_piece(
            self._vocab, token, self._piece_buffer, _PIECE_BYTES, 0, False
        )
        if size < 0:
            self._piece_buffer = ctypes.create_string_buffer(-size)
            size = C.llama_token_to_piece(self._vocab, token, self._piece_buffer, -size, 0, False)
        return self._piece_buffer.raw[:size]

    def token_text(self, token: int) -> str:
        """The vocabulary entry of `token` as it is stored."""
        raw: bytes = C.llama_vocab_get_text(self._vocab, token)
        return raw.decode("utf-8", errors="replace")

    def find_token(self, text: str) -> int | None:
        """The id of the vocabulary entry spelt exactly `text`."""
        if self._ids is None:
            self._ids = {self.token_text(token): token for token in range(self.n_vocab)}
        return self._ids.get(text)

    def is_control(self, token: int) -> bool:
        """Whether text can never tokenise to `token`."""
        return bool(self._is_control(token))

    def is_byte(self, token: int) -> bool:
        """Whether `token` stands for one raw byte."""
        return bool(C.llama_vocab_get_attr(self._vocab, token) & C.LLAMA_TOKEN_ATTR_BYTE)

    def is_end(self, token: int) -> bool:
        """Whether `token` ends a generation (end of sequence, of turn, …)."""
        return bool(self._is_end(token))

    @staticmethod
    def _token_or_none(token: int) -> int | None:
        return token if token >= 0 else None


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive tokens of one sequence in a batch, at `position` of that sequence.

    `is_output`: whether logits (and the embedding, if the batch has them) of the last token are
    wanted.
    """

    seq_id: int
    position: int
    tokens: Sequence[int]
    is_output: bool


class LlamaContext:
    """KV cache and compute buffers over a model; evaluates batches of chunks."""

    def __init__(self, model: LlamaModel, config: ContextConfig) -> None:
        self.model, self.config = model, config
        forget_errors()
        self.handle = C.llama_init_from_model(model.handle, _context_params(config))
        if not self.handle:
            raise ModelError(
                f"{model.path}: no context of {config.n_ctx} cells: {last_error()}; "
                "lower PERSONA_N_CTX"
            )
        self._memory = C.llama_get_memory(self.handle)
        self._batch = _BatchBuffer(config.n_batch)
        self._has_embeddings = False
        self.num_outputs = 0
        """Tokens whose logits were computed since the context was made."""

    def close(self) -> None:
        """Free the context."""
        if self.handle:
            C.llama_free(self.handle)
            self.handle = None

    def decode(self, chunks: Sequence[Chunk], *, embeddings: bool = False) -> list[int]:
        """Evaluate `chunks` in one batch; the row of each chunk's last token in that batch.

        With `embeddings` llama.cpp computes logits and embeddings for every token of the batch,
        so give it nothing but output tokens. Raises DecodeError.
        """
        rows = self._batch.fill(chunks)
        if embeddings != self._has_embeddings:
            C.llama_set_embeddings(self.handle, embeddings)
            self._has_embeddings = embeddings
        code = C.llama_decode(self.handle, self._batch.struct)
        if code != 0:
            raise DecodeError(code)
        self.num_outputs += (
            self._batch.struct.n_tokens if embeddings else sum(chunk.is_output for chunk in chunks)
        )
        return rows

    def logits(self, row: int) -> Vector:
        """Logits at a row of the last batch, float32 [n_vocab], copied."""
        pointer = C.llama_get_logits_ith(self.handle, row)
        assert pointer, f"row {row} was not an output"
        return np.ctypeslib.as_array(pointer, (self.model.n_vocab,)).copy()

    def embedding(self, row: int) -> Vector:
        """Final-norm hidden state at a row of the last batch, float32 [n_embd], copied."""
        pointer = C.llama_get_embeddings_ith(self.handle, row)
        assert pointer, f"row {row} has no embedding"
        return np.ctypeslib.as_array(pointer, (self.model.n_embd,)).copy()

    def evaluate(self, tokens: Sequence[int]) -> Vector:
        """Logits after each of `tokens`, float32 [len(tokens), n_vocab]; forgets all sequences.

        For measuring: this is the costly way.
        """
        self.clear()
        result = np.empty((len(tokens), self.model.n_vocab), np.float32)
        for start in range(0, len(tokens), self.config.n_batch):
            part = tokens[start : start + self.config.n_batch]
            self._batch.fill([Chunk(0, start, part, is_output=True)])
            self._batch.output[: len(part)] = 1
            if code := C.llama_decode(self.handle, self._batch.struct):
                raise DecodeError(code)
            for row in range(len(part)):
                result[start + row] = self.logits(row)
        return result

    def warm_up(self) -> None:
        """Evaluate something once: the weights' pages are read, and what is made lazily is made.

        Raises ModelError if llama.cpp can't, such as for want of memory.
        """
        tokens = [self.model.eos] * min(_WARM_UP_TOKENS, self.config.n_batch)
        forget_errors()
        try:
            self.decode([Chunk(0, 0, tokens, is_output=False)])
            self.decode([Chunk(0, len(tokens), tokens[:1], is_output=True)], embeddings=True)
        except DecodeError as error:
            raise ModelError(
                f"{self.model.path}: {error}: {last_error()}; free memory or lower PERSONA_N_CTX"
            ) from error
        self.clear()

    def clear(self) -> None:
        """Forget all sequences."""
        C.llama_memory_clear(self._memory, False)

    def forget(self, seq_id: int, start: int = 0) -> None:
        """Free the cells of a sequence from position `start` on."""
        C.llama_memory_seq_rm(self._memory, seq_id, start, -1)

    def share(self, source: int, target: int, end: int) -> None:
        """Let `target` have the first `end` cells of `source` too: metadata only."""
        C.llama_memory_seq_cp(self._memory, source, target, 0, end)

    def holds(self, seq_id: int, end: int) -> bool:
        """Whether a sequence still has all that a token at position `end` sees.

        Even a full-size sliding-window cache gives away the cells that their own sequence no longer
        sees (llama_kv_cache::find_slot): a beginning of it may then be gone, though not its end.
        """
        if not self.model.n_swa:
            return True
        first = int(C.llama_memory_seq_pos_min(self._memory, seq_id))
        return 0 <= first <= max(0, end - self.model.n_swa + 1)

    def save(self, seq_id: int) -> bytes:
        """The state of a sequence, as `restore` takes it."""
        size = C.llama_state_seq_get_size(self.handle, seq_id)
        buffer = (ctypes.c_uint8 * size)()
        written = C.llama_state_seq_get_data(self.handle, buffer, size, seq_id)
        return bytes(memoryview(buffer)[:written])

    def restore(self, seq_id: int, state: bytes) -> bool:
        """Fill an empty sequence with a state that `save` gave; False, and empty, if it fails."""
        buffer = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
        num_read = int(C.llama_state_seq_set_data(self.handle, buffer, len(state), seq_id))
        if num_read != len(state):
            self.forget(seq_id)
            return False
        return True

    def num_cells(self, seq_id: int) -> int:
        """Positions that a sequence holds."""
        return int(C.llama_memory_seq_pos_max(self._memory, seq_id)) + 1


def _context_params(config: ContextConfig) -> C.llama_context_params:
    params = C.llama_context_default_params()
    params.n_ctx, params.n_seq_max = config.n_ctx, config.n_seq_max
    params.n_batch, params.n_ubatch = config.n_batch, min(config.n_ubatch, config.n_batch)
    params.n_threads, params.n_threads_batch = config.n_threads, config.n_threads_batch
    params.type_k = params.type_v = _GGML_TYPES[config.kv_type]
    params.flash_attn_type = 1 if config.flash_attention else 0
    params.pooling_type = C.LLAMA_POOLING_TYPE_NONE
    params.embeddings = False
    params.kv_unified = True  # partial seq_cp asserts without it
    params.swa_full = True  # a sliding window's prefixes can't be reused without it
    params.no_perf = True
    return params


class _BatchBuffer:
    """The arrays behind one llama_batch, filled by slices; each token belongs to one sequence."""

    def __init__(self, capacity: int) -> None:
        self._token, self._position, self._seq_id = np.zeros((3, capacity), np.int32)
        self._num_seq_ids = np.ones(capacity, np.int32)
        self.output = np.zeros(capacity, np.int8)
        seq_pointer = ctypes.POINTER(C.llama_seq_id)
        base, step = self._seq_id.ctypes.data, self._seq_id.itemsize
        self._seq_pointers = (seq_pointer * capacity)(
            *(ctypes.cast(base + i * step, seq_pointer) for i in range(capacity))
        )
        self.struct = C.llama_batch(
            n_tokens=0,
            token=self._token.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            embd=None,
            pos=self._position.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
            n_seq_id=self._num_seq_ids.ctypes.data_as(ctypes.POINTER(ctypes.c_int32)),
            seq_id=ctypes.cast(self._seq_pointers, ctypes.POINTER(seq_pointer)),
            logits=self.output.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        )

    def fill(self, chunks: Sequence[Chunk]) -> list[int]:
        """Write the chunks one after another; the row of each one's last token."""
        rows, start = [], 0
        batch = self.struct
        for chunk in chunks:
            end = start + len(chunk.tokens)
            if end - start == 1:  # numpy's slices would cost more than the token
                batch.token[start], batch.pos[start] = chunk.tokens[0], chunk.position
                batch.seq_id[start][0], batch.logits[start] = chunk.seq_id, chunk.is_output
                rows.append(start)
                start = end
                continue
            self._token[start:end] = chunk.tokens
            self._position[start:end] = range(chunk.position, chunk.position + end - start)
            self._seq_id[start:end] = chunk.seq_id
            self.output[start:end] = 0
            self.output[end - 1] = chunk.is_output
            rows.append(end - 1)
            start = end
        batch.n_tokens = start
        return rows


class Sampler:
    """A llama.cpp sampler chain made from SamplingParams; remembers what it drew."""

    def __init__(self, params: SamplingParams, n_vocab: int) -> None:
        self.handle = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        for part in _sampler_parts(params, n_vocab):
            C.llama_sampler_chain_add(self.handle, part)

    def sample(self, context: LlamaContext, row: int) -> int:
        """Draw a token from the logits at a row of the context's last batch."""
        return int(C.llama_sampler_sample(self.handle, context.handle, row))

    def close(self) -> None:
        """Free the chain."""
        if self.handle:
            C.llama_sampler_free(self.handle)
            self.handle = None


def _sampler_parts(params: SamplingParams, n_vocab: int) -> list[Any]:
    parts = []
    if params.repetition_penalty != 1:
        penalty = params.repetition_penalty
        parts.append(C.llama_sampler_init_penalties(n_vocab, _PENALTY_TOKENS, penalty, 0.0, 0.0))
    if params.temperature < _LOWEST_TEMPERATURE:
        return [*parts, C.llama_sampler_init_greedy()]
    if params.top_k:
        parts.append(C.llama_sampler_init_top_k(params.top_k))
    if params.top_p < 1:
        parts.append(C.llama_sampler_init_top_p(params.top_p, 1))
    if params.min_p > 0:
        parts.append(C.llama_sampler_init_min_p(params.min_p, 1))
    seed = MAX_SEED + 1 if params.seed is None else params.seed  # the last value draws a seed
    return [
        *parts,
        C.llama_sampler_init_temp(params.temperature),
        C.llama_sampler_init_dist(seed),
    ]
