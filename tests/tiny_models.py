"""Tiny random models of every supported architecture, each as a GGUF and as a transformers model.

The weights are drawn with numpy, so a test that only wants a GGUF needs no torch. llama.cpp's
logits equal transformers' within float error (tests/export/test_tiny_models.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGUFValueType, TokenType

from export.gguf_file import GgufModel, float_tensor, write_gguf
from runtime.prompt import Special

Architecture: TypeAlias = Literal["gemma3", "qwen2", "qwen3", "llama"]
Weights: TypeAlias = dict[str, npt.NDArray[np.float32]]

ARCHITECTURES: tuple[Architecture, ...] = ("gemma3", "qwen2", "qwen3", "llama")
NUM_LAYERS, NUM_HEADS, NUM_KV_HEADS = 2, 4, 2
N_EMBD, N_FF, N_CTX = 64, 128, 1024
RMS_EPS = 1e-5
SLIDING_WINDOW = 8
NUM_SPARE = 9
"""Unused slots besides the special tokens: seven to claim and two over."""

_TIED = ("gemma3", "qwen2", "qwen3")
_ROPE_BASE = {"gemma3": 1e6, "qwen2": 1e6, "qwen3": 1e6, "llama": 1e4}
_HEAD_DIM = {"gemma3": 32, "qwen2": 16, "qwen3": 32, "llama": 16}

_TEXT = """the and you hello thank where help gold sword quest
안녕 안녕하세요 감사 감사합니다 목걸이 어디 있어요 도와 주세요 사람 привет мир 你好 ありがとう"""
_WORDS = _TEXT.split()
_SINGLES = "가나다라마바사아자차카타파하이그저는을를에서고도만은요?!…、。，é日😀"


@dataclass(frozen=True)
class TinyModel:
    """A tiny model on disk (`path`, F32) and what it was made of."""

    path: Path
    architecture: Architecture
    weights: Weights
    """By the names that transformers gives them."""

    num_tokens: int

    @cached_property
    def hf_model(self) -> Any:
        """The transformers model with these weights, in eval mode."""
        import torch  # noqa: PLC0415 (runtime tests do without)

        model = _make_hf_model(self.architecture, self.num_tokens)
        state = {name: torch.from_numpy(value.copy()) for name, value in self.weights.items()}
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert set(missing) <= {"lm_head.weight"}
        model.tie_weights()
        return model.eval()


def make_tiny(
    architecture: Architecture, folder: Path, seed: int = 0, *, specials: bool = True
) -> TinyModel:
    """Writes `folder/tiny-ARCHITECTURE-SEED.gguf`; the same arguments give the same bytes.

    Without `specials` the seven special tokens are still to be claimed from the spare slots.
    """
    names = list(Special) if specials else []
    is_spm = architecture in ("gemma3", "llama")
    model = GgufModel()
    model.set("general.architecture", GGUFValueType.STRING, architecture)
    model.set("general.name", GGUFValueType.STRING, f"tiny {architecture}")
    model.set("general.file_type", GGUFValueType.UINT32, 0)
    _set_shape(model, architecture)
    num_tokens = _set_spm(model, names) if is_spm else _set_bpe(model, names)
    if architecture == "llama":
        model.set("llama.vocab_size", GGUFValueType.UINT32, num_tokens)
    weights = _draw_weights(architecture, num_tokens, seed)
    add_hf_weights(model, weights)
    path = folder / f"tiny-{architecture}-{seed}{'' if specials else '-plain'}.gguf"
    write_gguf(model, path)
    return TinyModel(path, architecture, weights, num_tokens)


def add_hf_weights(model: GgufModel, weights: Weights) -> None:
    """Adds (or replaces) tensors as llama.cpp's converter names and lays them out, in F32."""
    kind = {name: key for key, name in gguf.MODEL_ARCH_NAMES.items()}[model.architecture]
    names = gguf.get_tensor_name_map(kind, NUM_LAYERS)
    for hf_name, values in weights.items():
        name = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        assert name is not None, hf_name
        model.add(float_tensor(name, _converted(model.architecture, hf_name, values)))


def _converted(
    architecture: str, name: str, values: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    if architecture == "gemma3" and name.endswith("norm.weight"):
        return values + 1
    if architecture == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = NUM_HEADS if "q_proj" in name else NUM_KV_HEADS
        parts = values.reshape(heads, 2, values.shape[0] // heads // 2, values.shape[1])
        return parts.swapaxes(1, 2).reshape(values.shape)
    return values


def _set_shape(model: GgufModel, architecture: Architecture) -> None:
    head = _HEAD_DIM[architecture]
    numbers = {
        "context_length": N_CTX,
        "embedding_length": N_EMBD,
        "block_count": NUM_LAYERS,
        "feed_forward_length": N_FF,
        "attention.head_count": NUM_HEADS,
        "attention.head_count_kv": NUM_KV_HEADS,
        "attention.key_length": head,
        "attention.value_length": head,
        "rope.dimension_count": head,
    }
    if architecture == "gemma3":
        numbers["attention.sliding_window"] = SLIDING_WINDOW
        numbers["attention.sliding_window_pattern"] = NUM_LAYERS  # the last layer sees everything
    for key, value in numbers.items():
        model.set(f"{architecture}.{key}", GGUFValueType.UINT32, value)
    floats = {
        "attention.layer_norm_rms_epsilon": RMS_EPS,
        "rope.freq_base": _ROPE_BASE[architecture],
    }
    for key, number in floats.items():
        model.set(f"{architecture}.{key}", GGUFValueType.FLOAT32, number)


def _set_spm(model: GgufModel, specials: Sequence[str]) -> int:
    control = ["<pad>", "<eos>", "<bos>", "<mask>", *specials]
    control += [f"<unused{i}>" for i in range(NUM_SPARE)]
    entries = [(text, TokenType.CONTROL) for text in control]
    entries.insert(3, ("<unk>", TokenType.UNKNOWN))
    entries += [(f"<0x{byte:02X}>", TokenType.BYTE) for byte in range(256)]
    entries += [("\n\n", TokenType.USER_DEFINED)]
    pieces = dict.fromkeys(prefix for word in _WORDS for prefix in _spm_prefixes(word))
    singles = dict.fromkeys(["▁", "\n", *map(chr, range(33, 127)), *_SINGLES, *"".join(_WORDS)])
    entries += [(text, TokenType.NORMAL) for text in [*pieces, *singles]]
    tokens, types = zip(*entries, strict=True)
    _set_tokens(model, "llama", "default", tokens, types)
    model.set_array("tokenizer.ggml.scores", GGUFValueType.FLOAT32, _spm_scores(entries))
    ids = {"bos": 2, "eos": 1, "unknown": 3, "padding": 0}
    for name, token in ids.items():
        model.set(f"tokenizer.ggml.{name}_token_id", GGUFValueType.UINT32, token)
    model.set("tokenizer.ggml.add_bos_token", GGUFValueType.BOOL, True)
    model.set("tokenizer.ggml.add_space_prefix", GGUFValueType.BOOL, False)
    return len(tokens)


def _spm_prefixes(word: str) -> list[str]:
    plain = [word[:end] for end in range(2, len(word) + 1)]
    return [*plain, *("▁" + word[:end] for end in range(1, len(word) + 1))]


def _spm_scores(entries: Sequence[tuple[str, TokenType]]) -> list[float]:
    is_normal = [kind == TokenType.NORMAL for _, kind in entries]
    first = is_normal.index(True)
    return [float(first - at) if normal else -1000.0 for at, normal in enumerate(is_normal)]


def _set_bpe(model: GgufModel, specials: Sequence[str]) -> int:
    alphabet = byte_alphabet()
    merges: dict[tuple[str, str], None] = {}
    for text in [*_WORDS, *_SINGLES]:
        for form in (text, " " + text):
            _add_merges(merges, "".join(alphabet[byte] for byte in form.encode()))
    pieces = dict.fromkeys([*alphabet.values(), *(left + right for left, right in merges)])
    entries = [(text, TokenType.NORMAL) for text in pieces]
    entries += [(text, TokenType.CONTROL) for text in ("<|endoftext|>", "<|im_end|>", *specials)]
    entries += [(f"[PAD{len(entries) + i}]", TokenType.UNUSED) for i in range(NUM_SPARE)]
    tokens, types = zip(*entries, strict=True)
    _set_tokens(model, "gpt2", "qwen2", tokens, types)
    joined = [f"{left} {right}" for left, right in merges]
    model.set_array("tokenizer.ggml.merges", GGUFValueType.STRING, joined)
    end = tokens.index("<|endoftext|>")
    for name, token in {"bos": end, "eos": end + 1, "padding": end}.items():
        model.set(f"tokenizer.ggml.{name}_token_id", GGUFValueType.UINT32, token)
    model.set("tokenizer.ggml.add_bos_token", GGUFValueType.BOOL, False)
    return len(tokens)


def _add_merges(merges: dict[tuple[str, str], None], symbols: str) -> None:
    # From the left, one symbol at a time, as far as earlier merges leave it to us.
    parts = list(symbols)
    while len(parts) > 1:
        at = next((i for i in range(len(parts) - 1) if (parts[i], parts[i + 1]) in merges), 0)
        merges[parts[at], parts[at + 1]] = None
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def byte_alphabet() -> dict[int, str]:
    """GPT-2's letter for each byte: printable Latin-1 as itself, the rest from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + at) for at, byte in enumerate(others)}


def _set_tokens(
    model: GgufModel, kind: str, pre: str, tokens: Sequence[str], types: Sequence[TokenType]
) -> None:
    assert len(set(tokens)) == len(tokens), "llama.cpp refuses entries of the same text"
    model.set("tokenizer.ggml.model", GGUFValueType.STRING, kind)
    model.set("tokenizer.ggml.pre", GGUFValueType.STRING, pre)
    model.set_array("tokenizer.ggml.tokens", GGUFValueType.STRING, tokens)
    model.set_array("tokenizer.ggml.token_type", GGUFValueType.INT32, [int(t) for t in types])


def _draw_weights(architecture: Architecture, num_tokens: int, seed: int) -> Weights:
    draw = np.random.default_rng(seed)
    return {
        name: (centre + scale * draw.standard_normal(shape)).astype(np.float32)
        for name, shape, centre, scale in _weight_shapes(architecture, num_tokens)
    }


def _weight_shapes(
    architecture: Architecture, num_tokens: int
) -> list[tuple[str, tuple[int, ...], float, float]]:
    """Name, shape, mean and standard deviation of each weight."""
    mean = 0.0 if architecture == "gemma3" else 1.0  # Gemma's norms are stored less one
    shapes: list[tuple[str, tuple[int, ...], float, float]] = [
        ("model.embed_tokens.weight", (num_tokens, N_EMBD), 0.0, 0.1),
        ("model.norm.weight", (N_EMBD,), mean, 0.2),
    ]
    if architecture not in _TIED:
        shapes.append(("lm_head.weight", (num_tokens, N_EMBD), 0.0, 0.1))
    for layer in range(NUM_LAYERS):
        for name, shape in _matrices(_HEAD_DIM[architecture]).items():
            shapes.append((f"model.layers.{layer}.{name}.weight", shape, 0.0, 0.15))
        for name, size in _norms(architecture).items():
            shapes.append((f"model.layers.{layer}.{name}.weight", (size,), mean, 0.2))
        if architecture == "qwen2":
            for name, rows in (("q", NUM_HEADS), ("k", NUM_KV_HEADS), ("v", NUM_KV_HEADS)):
                bias = f"model.layers.{layer}.self_attn.{name}_proj.bias"
                shapes.append((bias, (rows * _HEAD_DIM[architecture],), 0.0, 0.2))
    return shapes


def _matrices(head: int) -> dict[str, tuple[int, int]]:
    return {
        "self_attn.q_proj": (NUM_HEADS * head, N_EMBD),
        "self_attn.k_proj": (NUM_KV_HEADS * head, N_EMBD),
        "self_attn.v_proj": (NUM_KV_HEADS * head, N_EMBD),
        "self_attn.o_proj": (N_EMBD, NUM_HEADS * head),
        "mlp.gate_proj": (N_FF, N_EMBD),
        "mlp.up_proj": (N_FF, N_EMBD),
        "mlp.down_proj": (N_EMBD, N_FF),
    }


def _norms(architecture: Architecture) -> dict[str, int]:
    norms = {"input_layernorm": N_EMBD, "post_attention_layernorm": N_EMBD}
    if architecture == "gemma3":
        norms |= {"pre_feedforward_layernorm": N_EMBD, "post_feedforward_layernorm": N_EMBD}
    if architecture in ("gemma3", "qwen3"):
        head = _HEAD_DIM[architecture]
        norms |= {"self_attn.q_norm": head, "self_attn.k_norm": head}
    return norms


def _make_hf_model(architecture: Architecture, num_tokens: int) -> Any:
    import transformers  # noqa: PLC0415 (runtime tests do without)

    common: dict[str, Any] = {
        "vocab_size": num_tokens,
        "hidden_size": N_EMBD,
        "intermediate_size": N_FF,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": NUM_HEADS,
        "num_key_value_heads": NUM_KV_HEADS,
        "head_dim": _HEAD_DIM[architecture],
        "rms_norm_eps": RMS_EPS,
        "rope_theta": _ROPE_BASE[architecture],
        "max_position_embeddings": N_CTX,
        "tie_word_embeddings": architecture in _TIED,
        "attn_implementation": "eager",
    }
    if architecture == "gemma3":
        gemma = transformers.Gemma3TextConfig(
            **common,
            query_pre_attn_scalar=_HEAD_DIM[architecture],
            sliding_window=SLIDING_WINDOW,
            layer_types=["sliding_attention", "full_attention"],
            rope_local_base_freq=1e4,
        )
        return transformers.Gemma3ForCausalLM(gemma)
    if architecture == "qwen2":
        return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**common))
    if architecture == "qwen3":
        return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**common))
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**common))
