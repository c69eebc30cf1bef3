"""What to build, and a key that says whether it has been built already."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from export import base_model
from export.errors import BuildError
from export.merge_lora import CONFIG
from export.quantise import QuantType
from heads.bundle import AGREEMENT, FORMAT, HEADS, HEADS_RECORD, file_sha256
from runtime.prompt import FORMAT as PROMPT_FORMAT

DEFAULT_FOLDER = Path(__file__).parent / "default"
"""What the repository carries of the default bundle: heads, and an adapter if one was trained."""

_RECIPE = (
    "base_model",
    "build",
    "convert_hf",
    "gguf_file",
    "keep_rule",
    "merge_lora",
    "merge_path",
    "quant_types",
    "quantise",
    "special_tokens",
    "trim_vocab",
    "vocabulary",
)
"""Modules of this package that the bytes of a bundle depend on."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What to build. `adapter` None: none is merged."""

    out: Path
    quant: QuantType = "q8_0"
    adapter: Path | None = None
    base: Path | None = None
    """A GGUF, a folder of Hugging Face weights, or None for the packaged Gemma."""
    heads: Path = DEFAULT_FOLDER
    corpus: tuple[Path, ...] = ()
    trim: bool = True
    model_only: bool = False
    force: bool = False


def build_key(options: BuildOptions) -> str:
    """Hex SHA-256 of all that a bundle is made of: inputs, options and the code that makes it."""
    digest = hashlib.sha256()
    parts = [
        str(FORMAT),
        str(PROMPT_FORMAT),
        _hash_base(options.base),
        options.quant,
        str(options.trim),
    ]
    parts += [str(options.model_only)]
    parts += [hash_file(Path(__file__).with_name(f"{name}.py")) for name in _RECIPE]
    inputs = list(options.corpus)
    if not options.model_only:
        inputs += [options.heads / HEADS, options.heads / HEADS_RECORD]
        inputs += [path for path in [options.heads / AGREEMENT] if path.is_file()]
    if options.adapter is not None:
        if not (options.adapter / CONFIG).is_file():
            remedy = "give a folder that PEFT's save_pretrained wrote"
            raise BuildError(options.adapter, f"a folder with {CONFIG}", "none", remedy)
        inputs += sorted(path for path in options.adapter.iterdir() if path.is_file())
    parts += [f"{path.name} {hash_file(path)}" for path in inputs]
    digest.update("\n".join(parts).encode())
    return digest.hexdigest()


def _hash_base(base: Path | None) -> str:
    if base is None:
        return base_model.packaged_sha256()
    if not base.is_dir():
        return hash_file(base)
    files = sorted(path for path in base.iterdir() if path.is_file())
    return " ".join(f"{path.name} {hash_file(path)}" for path in files)


def hash_file(path: Path) -> str:
    """Hex SHA-256 of an input. Raises BuildError if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError as error:
        found = error.strerror or "an error"
        raise BuildError(path, "a readable file", found, "check the path") from error
