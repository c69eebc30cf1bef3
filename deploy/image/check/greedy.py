"""What the model would say next after each token of a fixed text: run here and in the container.

    python3.11 greedy.py BUNDLE <TEXT

Prints JSON: the likeliest token at each position, and by how much its logit leads the next one's.
"""

import json
import sys
from pathlib import Path

import numpy as np

from heads.bundle import load_bundle
from runtime.llama_backend import LlamaContext, LlamaModel


def main(folder: Path, text: str) -> None:
    """Evaluate `text` under the bundle's own context settings."""
    bundle = load_bundle(folder, verify_hashes=False)
    model = LlamaModel(bundle.model)
    config = bundle.manifest.context.config(n_ctx=2_048, n_seq_max=1, n_threads=2)
    assert model.bos is not None
    logits = LlamaContext(model, config).evaluate([model.bos, *model.tokenize(text)])
    best = np.sort(logits, axis=1)[:, -2:]
    leads = (best[:, 1] - best[:, 0]).round(3)
    print(json.dumps({"tokens": logits.argmax(axis=1).tolist(), "leads": leads.tolist()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdin.read())
