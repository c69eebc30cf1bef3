"""The base to fine-tune: a GGUF with the special tokens, and the same weights in PyTorch.

A GGUF is loaded in full precision by transformers; Hugging Face weights may be held in 4-bit NF4.
Token ids are always those of the GGUF, which is what serves.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export.build import build
from export.build_key import BuildOptions
from export.errors import BuildError
from export.gguf_file import read_gguf
from export.merge_lora import ARCHITECTURES
from export.reporter import RichReporter
from export.special_tokens import ROW_TENSORS, special_ids
from export.vocabulary import model_vocabulary_sha256, read_vocabulary
from heads.bundle import MODEL, cache_folder
from runtime.prompt import Special
from train.config import BaseConfig
from train.packed_attention import NAME as PACKED

_GEMMA_PATTERN = 6
"""Every so-manieth layer of Gemma 3 attends to everything, where a GGUF does not say."""
_GEMMA_27B_LAYERS = 62


@dataclass(frozen=True, slots=True)
class BaseInfo:
    """A base as GGUF, ready for the prompt format."""

    gguf: Path
    vocabulary_sha256: str
    special_ids: dict[str, int]
    rows: dict[str, torch.Tensor]
    """First rows of the special tokens: `embedding` [7, n_embd], `output` too if untied."""
    n_embd: int


def build_options(config: BaseConfig) -> BuildOptions:
    """How the base's own GGUF is built: its weights as they are, nothing merged."""
    source = Path(config.hf or config.gguf) if config.hf or config.gguf else None
    trim = config.trim and not config.hf
    return BuildOptions(Path(), base=source, quant="keep", trim=trim, model_only=True)


def prepare_base(config: BaseConfig, reporter: RichReporter) -> BaseInfo:
    """The base's GGUF, built into the user's cache if it is not there. Raises ExportError."""
    options = build_options(config)
    name = f"{options.base.absolute() if options.base else 'packaged'} {options.trim}"
    folder = cache_folder() / "bases" / hashlib.sha256(name.encode()).hexdigest()[:16]
    build(replace(options, out=folder), reporter)
    return read_base(folder / MODEL)


def read_base(gguf: Path) -> BaseInfo:
    """What training needs to know of a base's GGUF. Raises ExportError."""
    model = read_gguf(gguf)
    if model.architecture not in ARCHITECTURES:
        remedy = "choose a base of one of these"
        raise BuildError(gguf, " or ".join(ARCHITECTURES), model.architecture, remedy)
    ids = special_ids(read_vocabulary(model))
    order = [ids[special] for special in Special]
    names = dict(zip(("embedding", "output"), ROW_TENSORS, strict=True))
    rows = {
        key: torch.from_numpy(model.tensors[name].rows(order).copy())
        for key, name in names.items()
        if name in model.tensors
    }
    n_embd = int(model.get(f"{model.architecture}.embedding_length"))
    return BaseInfo(gguf, model_vocabulary_sha256(model), ids, rows, n_embd)


def load_weights(config: BaseConfig, gguf: Path, device: torch.device) -> Any:
    """The causal language model of transformers, its weights frozen.

    Raises BuildError where transformers cannot read them.
    """
    import transformers  # noqa: PLC0415 (slow to import)

    load: Callable[..., Any] = transformers.AutoModelForCausalLM.from_pretrained
    kwargs: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": PACKED}
    try:
        if not config.hf:
            kwargs["config"] = _gguf_config(gguf)
            model = load(str(gguf.parent), gguf_file=gguf.name, **kwargs).to(device)
        elif not config.nf4:
            model = load(config.hf, **kwargs).to(device)
        else:
            kwargs["dtype"] = torch.float32 if device.type == "cpu" else torch.bfloat16
            quantised = transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=kwargs["dtype"],
            )
            model = load(
                config.hf, quantization_config=quantised, device_map={"": device}, **kwargs
            )
    except (OSError, ValueError, ImportError) as error:
        found = " ".join(str(error).split())[:300]
        remedy = "see that the weights are whole and of an architecture that transformers knows"
        raise BuildError(config.hf or gguf, "weights that load", found, remedy) from error
    for module in model.modules():
        # bitsandbytes would pack weights at the first look at validation, and what is packed
        # multiplies without gradients (matmul_4bit in its autograd/_functions.py)
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model.requires_grad_(False)


def _gguf_config(gguf: Path) -> Any:
    """The configuration that transformers reads from a GGUF, with what it leaves out.

    The width of a head; for Gemma 3 the pattern of sliding windows, and the scale of attention,
    which is the head's width (llama.cpp, src/models/gemma3.cpp), save in the 27B.
    """
    import transformers  # noqa: PLC0415

    config = transformers.AutoConfig.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    model = read_gguf(gguf)
    if width := model.get(f"{model.architecture}.attention.key_length", None):
        config.head_dim = int(width)
    if model.architecture == "gemma3":
        pattern = int(model.get("gemma3.attention.sliding_window_pattern", _GEMMA_PATTERN))
        config.layer_types = [
            "sliding_attention" if (layer + 1) % pattern else "full_attention"
            for layer in range(config.num_hidden_layers)
        ]
        if config.num_hidden_layers != _GEMMA_27B_LAYERS:
            config.query_pre_attn_scalar = config.head_dim
    return config
