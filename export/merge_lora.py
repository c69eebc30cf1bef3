"""Merges a PEFT LoRA adapter into GGUF tensors: W + scale * B @ A, in float32, without PyTorch.

The scale is lora_alpha / r, or lora_alpha / sqrt(r) with rslora (https://arxiv.org/abs/2312.03732).
llama's query and key rows are permuted in a GGUF, as conversion/llama.py of llama.cpp does it; the
other three architectures are stored as transformers has them.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf import GGMLQuantizationType
from safetensors import SafetensorError, deserialize

from export.errors import AdapterError
from export.gguf_file import Bytes, Floats, GgufModel, Tensor
from export.special_tokens import ROW_TENSORS, set_rows, special_ids
from export.vocabulary import model_vocabulary_sha256, read_vocabulary
from runtime.prompt import Special

ARCHITECTURES = ("gemma3", "llama", "qwen2", "qwen3")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PERSONA, SPECIAL_ROWS = "persona.json", "special_tokens.safetensors"

_TARGETS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
_KEY = re.compile(
    r"base_model\.model\.(?:model\.)?(?:language_model\.)?layers\.(\d+)"
    r"\.(?:self_attn|mlp)\.(\w+)\.lora_(A|B)(?:\.default)?\.weight"
)
_UNSUPPORTED = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "layer_replication",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "target_parameters",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
)
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_REMEDY = "train a plain LoRA on " + ", ".join(_TARGETS)
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


class LoraConfig(msgspec.Struct, frozen=True):
    """What merging needs of `adapter_config.json`."""

    r: int
    lora_alpha: float
    peft_type: str = "LORA"
    use_rslora: bool = False
    bias: str = "none"
    init_lora_weights: bool | str = True

    @property
    def scale(self) -> float:
        """Factor of B @ A."""
        return self.lora_alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


class Persona(msgspec.Struct, frozen=True):
    """What we write beside an adapter: the vocabulary that it was trained on."""

    vocabulary_sha256: str | None = None


@dataclass(slots=True)
class LoraPair:
    """The two factors of one projection's change: `down` [r, n_in], `up` [n_out, r]."""

    down: Floats | None = None
    up: Floats | None = None


def merge(model: GgufModel, folder: Path) -> tuple[GgufModel, set[str]]:
    """A model with the adapter in `folder` merged, and the names of the tensors it changed.

    Changed projections come out in F32. Special-token rows are replaced by those that were
    trained, where `special_tokens.safetensors` has them. Raises AdapterError for whatever cannot
    be merged, and for any tensor of the adapter that would be left unused.
    """
    if model.architecture not in ARCHITECTURES:
        remedy = "choose one of these bases"
        raise AdapterError(folder, " or ".join(ARCHITECTURES), model.architecture, remedy)
    config = read_config(folder / CONFIG)
    _check_vocabulary(model, folder)
    merged = GgufModel(dict(model.metadata), dict(model.tensors))
    changed = set()
    for (layer, target), pair in _read_pairs(folder / WEIGHTS, config.r).items():
        name = f"blk.{layer}.{_TARGETS[target]}.weight"
        if name not in merged.tensors:
            found = f"an adapter for layer {layer} of {model.get(_key(model, 'block_count'))}"
            raise AdapterError(folder / WEIGHTS, f"a tensor {name}", found, "give the right base")
        merged.add(_merged_tensor(model, merged.tensors[name], pair, config.scale))
        changed.add(name)
    _replace_special_rows(merged, folder / SPECIAL_ROWS)
    return merged, changed


def read_config(path: Path) -> LoraConfig:
    """The adapter's settings. Raises AdapterError for a kind of adapter that cannot be merged."""
    settings = _decode(path, dict[str, Any])
    config: LoraConfig = _decode(path, LoraConfig)
    unsupported = [name for name in _UNSUPPORTED if settings.get(name)]
    if config.peft_type != "LORA" or config.bias != "none" or unsupported:
        found = f"peft_type={config.peft_type}, bias={config.bias}, {', '.join(unsupported)}"
        raise AdapterError(path, "a plain LoRA without biases", found.rstrip(", "), _REMEDY)
    if str(config.init_lora_weights).lower().startswith(_CHANGES_THE_BASE):
        found = f"init_lora_weights={config.init_lora_weights}, which changes the base's weights"
        raise AdapterError(path, "an adapter to the base as it is", found, _REMEDY)
    if config.r < 1:
        raise AdapterError(path, "a rank r of at least 1", str(config.r), "save the adapter again")
    return config


def _decode(path: Path, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        remedy = "give a folder that PEFT's save_pretrained wrote"
        raise AdapterError(path, "readable JSON", str(error), remedy) from error


def _check_vocabulary(model: GgufModel, folder: Path) -> None:
    if not (folder / PERSONA).is_file():
        return
    expected = _decode(folder / PERSONA, Persona).vocabulary_sha256
    if expected and (found := model_vocabulary_sha256(model)) != expected:
        remedy = "train the adapter on this model, or build with the options of that time"
        raise AdapterError(folder / PERSONA, f"vocabulary {expected}", found, remedy)


def _read_pairs(path: Path, rank: int) -> dict[tuple[int, str], LoraPair]:
    pairs: dict[tuple[int, str], LoraPair] = {}
    for key, values in read_safetensors(path).items():
        match = _KEY.fullmatch(key)
        if match is None or match[2] not in _TARGETS:
            raise AdapterError(path, "only LoRA factors of known projections", key, _REMEDY)
        pair = pairs.setdefault((int(match[1]), match[2]), LoraPair())
        if match[3] == "A":
            pair.down = values
        else:
            pair.up = values
    for (layer, target), pair in pairs.items():
        if pair.down is None or pair.up is None or not _has_rank(pair, rank):
            found = f"{_shape(pair.down)} and {_shape(pair.up)} in layer {layer}, {target}"
            raise AdapterError(path, f"lora_A and lora_B of rank {rank}", found, "save it again")
    if not pairs:
        raise AdapterError(path, "LoRA factors", "none", "save the adapter again")
    return pairs


def _has_rank(pair: LoraPair, rank: int) -> bool:
    assert pair.down is not None
    assert pair.up is not None
    return pair.down.shape[:1] == (rank,) == pair.up.shape[1:]


def _shape(values: Floats | None) -> str:
    return "nothing" if values is None else str(values.shape)


def read_safetensors(path: Path) -> dict[str, Floats]:
    """Tensors of a safetensors file in float32, bfloat16 too. Raises AdapterError."""
    try:
        entries: list[tuple[str, dict[str, Any]]]
        entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise AdapterError(path, "a safetensors file", str(error), "save it again") from error
    return {name: _to_floats(path, name, entry) for name, entry in entries}


def _to_floats(path: Path, name: str, entry: dict[str, Any]) -> Floats:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype == "BF16":
        halves = np.frombuffer(entry["data"], np.uint16).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(shape)
    if dtype not in _DTYPES:
        raise AdapterError(path, f"floats in {name}", dtype, "save it in float32")
    return np.frombuffer(entry["data"], _DTYPES[dtype]).astype(np.float32).reshape(shape)


def _merged_tensor(model: GgufModel, tensor: Tensor, pair: LoraPair, scale: float) -> Tensor:
    assert pair.down is not None
    assert pair.up is not None
    down, up = pair.down, pair.up
    if (up.shape[0], down.shape[1]) != tensor.shape:
        found = f"a change of shape ({up.shape[0]}, {down.shape[1]})"
        remedy = "give the base that the adapter was trained on"
        raise AdapterError(tensor.name, f"shape {tensor.shape}", found, remedy)

    def load() -> Bytes:
        delta = (up @ down) * np.float32(scale)
        return (tensor.floats() + _stored(model, tensor.name, delta)).view(np.uint8)

    return replace(tensor, type=GGMLQuantizationType.F32, load=load)


def _stored(model: GgufModel, name: str, rows: Floats) -> Floats:
    """Rows of a projection as the GGUF has them: llama's rotary halves interleaved."""
    if model.architecture != "llama" or not name.endswith(("attn_q.weight", "attn_k.weight")):
        return rows
    heads = int(model.get(_key(model, "attention.head_count")))
    if name.endswith("attn_k.weight"):
        heads = int(model.get(_key(model, "attention.head_count_kv"), heads))
    parts = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(parts.swapaxes(1, 2)).reshape(rows.shape)


def _key(model: GgufModel, name: str) -> str:
    return f"{model.architecture}.{name}"


def _replace_special_rows(model: GgufModel, path: Path) -> None:
    if not path.is_file():
        return
    ids = special_ids(read_vocabulary(model))
    names = dict(zip(("embedding", "output"), ROW_TENSORS, strict=True))
    for name, values in read_safetensors(path).items():
        tensor = model.tensors.get(names.get(name, ""))
        if tensor is None or values.shape != (len(ids), tensor.shape[1]):
            expected = f"`embedding` (and `output` of an untied base) of shape [{len(ids)}, n_embd]"
            raise AdapterError(path, expected, f"{name} {values.shape}", "save the rows again")
        rows = {ids[special]: values[at] for at, special in enumerate(Special)}
        model.add(set_rows(tensor, rows))
