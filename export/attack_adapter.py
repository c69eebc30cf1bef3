"""What `persona triggers teach` writes: a LoRA on the default encoder, a head that tells attacks.

Hu et al. 2021, arXiv:2106.09685, with the biases and norms of every layer besides. The factors are
float16; the head goes on the mean of the last layer's states at unit length.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from export.errors import BuildError
from export.packaged_encoder import NAME, Array, EncoderWeights
from heads.attacks import Blend

FORMAT = 1
ADAPTER = "attacks.safetensors"
DOWN, UP = "lora_a", "lora_b"
HEAD, HEAD_BIAS = "head.weight", "head.bias"
TEACH = "run `persona triggers teach WORLD`"


class AdapterRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The file's metadata, as JSON under `record`."""

    format: int = FORMAT
    encoder: str = NAME
    blend: Blend
    training: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class AttackAdapter:
    """Tensors by the names of transformers' BertModel, and the record.

    For each changed matrix `X` [out, in] `X.lora_a` [rank, in] and `X.lora_b` [out, rank]; biases
    and norms as they have become.
    """

    tensors: Mapping[str, Array]
    record: AdapterRecord

    @property
    def head(self) -> tuple[Array, float]:
        """Weights [dim] and bias."""
        return self.tensors[HEAD], float(self.tensors[HEAD_BIAS][0])

    def applied_to(self, weights: EncoderWeights) -> EncoderWeights:
        """The encoder as it was taught. Raises ValueError where the two don't fit."""
        taught = dict(weights.tensors)
        for name, value in self.tensors.items():
            matrix, _, part = name.rpartition(".")
            if part == UP:
                taught[f"{matrix}.weight"] = (
                    _of_shape_of(taught, f"{matrix}.weight", _product(value, self.tensors, matrix))
                    + taught[f"{matrix}.weight"]
                )
            elif part == DOWN:
                if f"{matrix}.{UP}" not in self.tensors:
                    raise ValueError(f"{name} comes without {UP}")
            elif name not in (HEAD, HEAD_BIAS):
                taught[name] = _of_shape_of(taught, name, value)
        for name, shape in ((HEAD, (weights.dim,)), (HEAD_BIAS, (1,))):
            found = self.tensors[name].shape if name in self.tensors else None
            if found != shape:
                raise ValueError(f"{name} is of shape {found}, not {shape}")
        return replace(weights, tensors=taught)


def _product(up: Array, tensors: Mapping[str, Array], matrix: str) -> Array:
    down = tensors.get(f"{matrix}.{DOWN}")
    if down is None or up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[0]:
        found = None if down is None else down.shape
        raise ValueError(f"{matrix}: {UP} {up.shape} and {DOWN} {found} make no matrix")
    product: Array = up @ down
    return product


def _of_shape_of(tensors: Mapping[str, Array], name: str, value: Array) -> Array:
    if name not in tensors:
        raise ValueError(f"the encoder has no {name}")
    if tensors[name].shape != value.shape:
        raise ValueError(f"{name} is of shape {value.shape}, not {tensors[name].shape}")
    return value


def read_adapter(path: Path) -> AttackAdapter:
    """The adapter in a file. Raises BuildError."""
    try:
        with safe_open(path, "np") as file:
            raw = (file.metadata() or {}).get("record", "")
            record = msgspec.json.decode(raw, type=AdapterRecord)
            tensors = {name: file.get_tensor(name).astype(np.float32) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError, msgspec.DecodeError) as error:
        raise BuildError(path, "an encoder's lesson on attacks", str(error), TEACH) from error
    if record.format != FORMAT or record.encoder != NAME:
        found = f"format {record.format} of {record.encoder}"
        raise BuildError(path, f"format {FORMAT} of {NAME}", found, TEACH)
    return AttackAdapter(tensors, record)


def adapter_bytes(adapter: AttackAdapter) -> bytes:
    """The file of an adapter: factors in float16, the rest in float32."""
    tensors = {
        name: np.ascontiguousarray(
            value, np.float16 if name.rpartition(".")[2] in (DOWN, UP) else np.float32
        )
        for name, value in adapter.tensors.items()
    }
    record = msgspec.json.encode(adapter.record).decode()
    content: bytes = save(tensors, metadata={"record": record})
    return content
