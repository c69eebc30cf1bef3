"""A bundle of a tiny random model and random heads."""

import shutil
from contextlib import closing
from pathlib import Path

from heads.bundle import MODEL
from runtime.encoder import find_special_ids
from runtime.llama_backend import LlamaModel
from tests.heads.bundles import write_bundle
from tests.tiny_models import N_EMBD, make_tiny


def write_tiny_bundle(folder: Path) -> Path:
    """Write one into `folder`."""
    shutil.move(make_tiny("qwen2", folder).path, folder / MODEL)
    with closing(LlamaModel(folder / MODEL, vocab_only=True)) as model:
        ids = find_special_ids(model)
    return write_bundle(folder, N_EMBD, lambda manifest: manifest.update(special_tokens=ids))
