"""A tiny model as a folder of Hugging Face weights, with a tokeniser that llama.cpp converts."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

from gguf import TokenType

from export.gguf_file import read_gguf
from export.vocabulary import read_vocabulary
from tests.tiny_models import make_tiny


def make_tiny_hf(folder: Path) -> Path:
    """`folder`/hf: the tiny llama's weights and its vocabulary as a SentencePiece model."""
    pb: Any = import_module("sentencepiece.sentencepiece_model_pb2")  # made by protobuf, untyped
    tiny = make_tiny("llama", folder, specials=False)
    target = folder / "hf"
    model = tiny.hf_model
    model.config.bos_token_id, model.config.eos_token_id = 2, 1
    model.generation_config.bos_token_id, model.generation_config.eos_token_id = 2, 1
    model.save_pretrained(target)
    gguf = read_gguf(tiny.path)
    vocabulary = read_vocabulary(gguf)
    spelt = pb.ModelProto()
    scores = gguf.get("tokenizer.ggml.scores")
    for text, kind, score in zip(vocabulary.tokens, vocabulary.types, scores, strict=True):
        spelt.pieces.add(piece=text, score=score, type=_KINDS[kind])
    spelt.trainer_spec.model_type = pb.TrainerSpec.BPE
    spelt.trainer_spec.vocab_size = len(vocabulary.tokens)
    spelt.trainer_spec.byte_fallback = True
    spelt.trainer_spec.unk_id, spelt.trainer_spec.bos_id = 3, 2
    spelt.trainer_spec.eos_id, spelt.trainer_spec.pad_id = 1, 0
    spelt.normalizer_spec.add_dummy_prefix = False
    spelt.normalizer_spec.remove_extra_whitespaces = False
    (target / "tokenizer.model").write_bytes(spelt.SerializeToString())
    settings = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
    }
    (target / "tokenizer_config.json").write_text(json.dumps(settings))
    return target


_KINDS = {
    TokenType.NORMAL: 1,
    TokenType.UNKNOWN: 2,
    TokenType.CONTROL: 3,
    TokenType.USER_DEFINED: 4,
    TokenType.UNUSED: 5,
    TokenType.BYTE: 6,
}
"""Types of SentencePiece's pieces."""
