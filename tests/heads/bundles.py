"""Writes small bundles for tests, whole or broken in one way."""

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.heads_graph import linear_graph
from runtime.prompt import FORMAT, Special

Array = npt.NDArray[np.float64]

DELTA_NAMES = ("trust", "relationship")
FLAG_NAMES = ("give_item", "npc_main_story", "quest_stage_change")
SPEC: dict[str, Any] = {
    "delta": [{"name": name} for name in DELTA_NAMES],
    "flags": [{"name": name} for name in FLAG_NAMES],
}


@dataclass(frozen=True)
class RandomHeads:
    """Weights of linear heads, drawn anew for each seed."""

    mean: Array
    scale: Array
    w_delta: Array
    b_delta: Array
    w_flag: Array
    b_flag: Array

    @classmethod
    def draw(cls, n_embd: int, num_flags: int = len(FLAG_NAMES), seed: int = 0) -> "RandomHeads":
        """Heads for states of `n_embd` numbers."""
        draw = np.random.default_rng(seed)
        size = n_embd**-0.5
        return cls(
            draw.normal(0, 3, n_embd),
            draw.uniform(0.5, 20, n_embd),
            draw.normal(0, size, (n_embd, len(DELTA_NAMES))),
            draw.normal(0, 0.2, len(DELTA_NAMES)),
            draw.normal(0, size, (n_embd, num_flags)),
            draw.normal(0, 0.2, num_flags),
        )

    def graph(self) -> onnx.ModelProto:
        """As the ONNX graph that is served."""
        delta, flag = (self.w_delta, self.b_delta), (self.w_flag, self.b_flag)
        return linear_graph(self.mean, self.scale, delta, flag)

    def predict(self, states: npt.ArrayLike) -> tuple[Array, Array]:
        """The same by numpy, in double precision."""
        x = (np.asarray(states, np.float64) - self.mean) / self.scale
        return np.tanh(x @ self.w_delta + self.b_delta), 1 / (
            1 + np.exp(-(x @ self.w_flag + self.b_flag))
        )


def write_heads(path: Path, n_embd: int, num_flags: int = len(FLAG_NAMES)) -> RandomHeads:
    """`heads.onnx` with random weights."""
    heads = RandomHeads.draw(n_embd, num_flags)
    onnx.save(heads.graph(), path)
    return heads


def write_bundle(
    folder: Path, n_embd: int = 8, change: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    """A bundle in `folder`, its `model.gguf` a few bytes unless one is there already.

    `change` may spoil the manifest before it is written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "model.gguf").exists():
        (folder / "model.gguf").write_bytes(b"GGUF, or nearly")
    write_heads(folder / "heads.onnx", n_embd)
    manifest: dict[str, Any] = {
        "format": 1,
        "name": "test",
        "base": {"name": "base", "licence": "MIT", "vocabulary_sha256": "0" * 64},
        "architecture": "qwen2",
        "quantisation": "f32",
        "n_embd": n_embd,
        "n_ctx_train": 1024,
        "prompt_format": FORMAT,
        "special_tokens": {special.value: number for number, special in enumerate(Special)},
        "heads": deepcopy(SPEC),
        "files": [entry_of(folder / name) for name in ("model.gguf", "heads.onnx")],
    }
    change(manifest)
    (folder / "bundle.json").write_text(json.dumps(manifest))
    return folder


def entry_of(path: Path) -> dict[str, Any]:
    """The manifest's entry of a file."""
    raw = path.read_bytes()
    return {"path": path.name, "size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
