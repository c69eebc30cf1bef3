"""Small bundles made from tiny models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import onnx

from export.build_key import BuildOptions
from export.gguf_file import read_gguf
from export.heads_graph import linear_graph
from export.special_tokens import claim
from export.trim_vocab import trim
from export.vocabulary import model_vocabulary_sha256
from heads.bundle import HEADS, HEADS_RECORD, HeadsRecord
from heads.spec import DeltaSpec, FlagSpec, HeadSpec
from tests.tiny_models import N_EMBD, Architecture, make_tiny

SPEC = HeadSpec((DeltaSpec("trust"), DeltaSpec("relationship")), (FlagSpec("give_item"),))


@dataclass
class Recorder:
    """A reporter that remembers, and can fail when a stage begins."""

    lines: list[str] = field(default_factory=list)
    stages: list[str] = field(default_factory=list)
    fail_at: str | None = None
    error: BaseException = field(default_factory=KeyboardInterrupt)

    def stage(self, name: str, num_bytes: int | None = None) -> Callable[[int], None]:
        self.stages.append(name)
        if self.fail_at and name.startswith(self.fail_at):
            raise self.error
        return lambda _: None

    def say(self, text: str) -> None:
        self.lines.append(text)


def write_graph(path: Path, n_embd: int = N_EMBD, num_delta: int = 2, num_flags: int = 1) -> None:
    draw = np.random.default_rng(0)
    graph = linear_graph(
        np.zeros(n_embd),
        np.ones(n_embd),
        (draw.standard_normal((n_embd, num_delta)), np.zeros(num_delta)),
        (draw.standard_normal((n_embd, num_flags)), np.zeros(num_flags)),
    )
    path.write_bytes(onnx.ModelProto.SerializeToString(graph))


def make_options(folder: Path, architecture: Architecture = "gemma3") -> BuildOptions:
    """Options for a bundle at `folder/out` from a tiny base and heads that fit it."""
    base = make_tiny(architecture, folder, specials=False).path
    served = claim(trim(read_gguf(base))[0])[0]
    heads = folder / "heads"
    heads.mkdir()
    write_graph(heads / HEADS)
    record = HeadsRecord(
        heads=SPEC,
        vocabulary_sha256=model_vocabulary_sha256(served),
        training={"num_turns": 7},
        evaluation={"f1": 0.5},
    )
    (heads / HEADS_RECORD).write_bytes(msgspec.json.encode(record))
    return BuildOptions(folder / "bundles" / "out", base=base, heads=heads)
