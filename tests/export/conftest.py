"""Models that several of these tests share."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from export.base_model import assemble
from export.gguf_file import read_gguf
from export.quantise import write_quantised
from export.special_tokens import claim
from export.trim_vocab import trim
from runtime.llama_backend import LlamaModel


@dataclass(frozen=True)
class Trimmed:
    """A base and what trimming made of it, both on disk, types of the tensors kept."""

    base: Path
    trimmed: Path


@pytest.fixture(scope="session")
def gemma_trimmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trimmed]:
    """The packaged Gemma and its trimmed form."""
    folder = tmp_path_factory.mktemp("gemma")
    base, trimmed = folder / "base.gguf", folder / "trimmed.gguf"
    assemble(base)
    model, _ = trim(read_gguf(base))
    write_quantised(claim(model)[0], trimmed, "keep")
    yield Trimmed(base, trimmed)
    base.unlink()
    trimmed.unlink()


@pytest.fixture(scope="session")
def gemma_vocabularies(gemma_trimmed: Trimmed) -> Iterator[tuple[LlamaModel, LlamaModel]]:
    """llama.cpp's tokenizers of both."""
    pair = tuple(
        LlamaModel(path, vocab_only=True) for path in (gemma_trimmed.base, gemma_trimmed.trimmed)
    )
    yield pair[0], pair[1]
    for model in pair:
        model.close()
