"""`persona bench make-model`: a GGUF of a real model's shapes with random weights.

Speed and memory depend on the shapes and the weight types, not on what the weights say: with it
they are measured at production scale where the weights themselves are not to be had. Shapes are
those of the `config.json` that Qwen publishes with each model.
"""

import argparse
import shutil
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType, LlamaFileType
from gguf.constants import GGML_QUANT_VERSION
from rich.console import Console

from bench.made_vocabulary import set_vocabulary
from bench.random_weights import random_rows
from export.gguf_file import GgufModel, Tensor, float_tensor, write_gguf
from export.reporter import RichReporter

WeightType: TypeAlias = Literal["q4_k_m", "q4_0", "q8_0", "f16"]
WEIGHT_TYPES: tuple[WeightType, ...] = get_args(WeightType)
MAX_LAYERS = 512
"""llama.cpp's own bound."""
MAX_SEED = 2**32 - 1

_ARCHITECTURE = "qwen2"
_RMS_EPS, _ROPE_BASE = 1e-6, 1e6
_TYPES = {
    "q4_k_m": (Type.Q4_K, LlamaFileType.MOSTLY_Q4_K_M),
    "q4_0": (Type.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q8_0": (Type.Q8_0, LlamaFileType.MOSTLY_Q8_0),
    "f16": (Type.F16, LlamaFileType.MOSTLY_F16),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a qwen2 model whose output matrix is its embedding matrix."""

    num_layers: int
    n_embd: int
    n_ff: int
    num_heads: int
    num_kv_heads: int
    num_tokens: int = 151_936
    n_ctx: int = 32_768

    @property
    def n_kv(self) -> int:
        """Width of a layer's keys, and of its values."""
        return self.n_embd // self.num_heads * self.num_kv_heads


SHAPES = {
    "qwen2.5-3b": Shape(36, n_embd=2048, n_ff=11_008, num_heads=16, num_kv_heads=2),
    "qwen2.5-1.5b": Shape(28, n_embd=1536, n_ff=8_960, num_heads=12, num_kv_heads=2),
    "tiny": Shape(
        2, n_embd=256, n_ff=512, num_heads=4, num_kv_heads=2, num_tokens=2_048, n_ctx=4_096
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add("shape", choices=SHAPES, metavar="SHAPE", help=" or ".join(SHAPES))
    add("--out", type=Path, required=True, metavar="FILE", help="the GGUF to write")
    add("--type", choices=WEIGHT_TYPES, default="q4_k_m", help="of weights (default: q4_k_m)")
    add("--layers", type=int, help="other than the shape's")
    add("--seed", type=int, default=0)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Writes the file; 1 if the arguments are wrong or the disk is too full."""
    try:
        check(args)
        shape = SHAPES[args.shape]
        if args.layers is not None:
            shape = replace(shape, num_layers=args.layers)
        model = make_model(args.shape, shape, args.type, args.seed)
        size = sum(tensor.num_bytes for tensor in model.tensors.values())
        _check_disk(args.out, size)
    except ValueError as error:
        print(f"persona bench make-model: {error}", file=sys.stderr)
        return 1
    num_weights = sum(int(np.prod(tensor.shape)) for tensor in model.tensors.values())
    with RichReporter(Console(stderr=True)) as reporter:
        write_gguf(model, args.out, reporter.stage(f"writing {args.out}", size))
    print(f"{args.out}: {num_weights / 1e6:,.1f} million random weights, {size / 1e6:,.1f} MB")
    return 0


def check(args: argparse.Namespace) -> None:
    """Raise ValueError for arguments that no model can be made with."""
    if args.layers is not None and not 1 <= args.layers <= MAX_LAYERS:
        raise ValueError(f"--layers is {args.layers}; it must be from 1 to {MAX_LAYERS}")
    if not 0 <= args.seed <= MAX_SEED:
        raise ValueError(f"--seed is {args.seed}; it must be from 0 to {MAX_SEED}")
    if args.out.is_dir():
        raise ValueError(f"--out is {args.out}, a folder; name a file in it")
    if not args.out.parent.is_dir():
        raise ValueError(f"--out is {args.out}, but there is no folder {args.out.parent}; make it")


def _check_disk(path: Path, size: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ValueError(
            f"{path} needs {size / 1e6:,.1f} MB, but {free / 1e6:,.1f} MB are free; "
            "name fewer --layers or another disk"
        )


def make_model(name: str, shape: Shape, weights: WeightType, seed: int) -> GgufModel:
    """The model, whose tensors are drawn one by one when they are written."""
    model = GgufModel()
    model.set("general.architecture", GGUFValueType.STRING, _ARCHITECTURE)
    model.set("general.name", GGUFValueType.STRING, f"random weights, shapes of {name}")
    model.set("general.file_type", GGUFValueType.UINT32, int(_TYPES[weights][1]))
    model.set("general.quantization_version", GGUFValueType.UINT32, GGML_QUANT_VERSION)
    numbers = {
        "context_length": shape.n_ctx,
        "embedding_length": shape.n_embd,
        "block_count": shape.num_layers,
        "feed_forward_length": shape.n_ff,
        "attention.head_count": shape.num_heads,
        "attention.head_count_kv": shape.num_kv_heads,
    }
    for key, number in numbers.items():
        model.set(f"{_ARCHITECTURE}.{key}", GGUFValueType.UINT32, number)
    floats = {"attention.layer_norm_rms_epsilon": _RMS_EPS, "rope.freq_base": _ROPE_BASE}
    for key, value in floats.items():
        model.set(f"{_ARCHITECTURE}.{key}", GGUFValueType.FLOAT32, value)
    set_vocabulary(model, shape.num_tokens)
    for vector, length in _vectors(shape).items():
        fill = 0.0 if vector.endswith("bias") else 1.0
        model.add(float_tensor(vector, np.full(length, fill, np.float32)))
    for at, (matrix, rows) in enumerate(_matrices(shape).items()):
        kind = weight_type(matrix, shape.num_layers, weights)
        load = partial(random_rows, *rows, kind, (seed, at))
        model.add(Tensor(matrix, rows, kind, load))
    return model


def weight_type(name: str, num_layers: int, weights: WeightType) -> Type:
    """The type that llama.cpp's quantiser gives a matrix (llama_tensor_get_type_impl)."""
    kind = _TYPES[weights][0]
    if kind in (Type.F16, Type.Q8_0):
        return kind
    if name == "token_embd.weight":
        return Type.Q6_K
    _, layer, part, _ = name.split(".")
    if weights == "q4_k_m" and part in ("attn_v", "ffn_down"):
        return Type.Q6_K if _has_more_bits(int(layer), num_layers) else kind
    return kind


def _has_more_bits(layer: int, num_layers: int) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    first = num_layers // 8
    return layer < first or layer >= 7 * num_layers // 8 or (layer - first) % 3 == 2


def _matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """Rows and their length, by name."""
    n_embd, n_ff, n_kv = shape.n_embd, shape.n_ff, shape.n_kv
    parts = {
        "attn_q": (n_embd, n_embd),
        "attn_k": (n_kv, n_embd),
        "attn_v": (n_kv, n_embd),
        "attn_output": (n_embd, n_embd),
        "ffn_gate": (n_ff, n_embd),
        "ffn_up": (n_ff, n_embd),
        "ffn_down": (n_embd, n_ff),
    }
    return {"token_embd.weight": (shape.num_tokens, n_embd)} | {
        f"blk.{layer}.{part}.weight": rows
        for layer in range(shape.num_layers)
        for part, rows in parts.items()
    }


def _vectors(shape: Shape) -> dict[str, int]:
    """Lengths of norms and biases, by name."""
    parts = {
        "attn_norm.weight": shape.n_embd,
        "ffn_norm.weight": shape.n_embd,
        "attn_q.bias": shape.n_embd,
        "attn_k.bias": shape.n_kv,
        "attn_v.bias": shape.n_kv,
    }
    return {"output_norm.weight": shape.n_embd} | {
        f"blk.{layer}.{part}": length
        for layer in range(shape.num_layers)
        for part, length in parts.items()
    }
