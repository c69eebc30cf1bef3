"""Trims a GGUF's vocabulary to the scripts that are served: selects rows, bytes untouched.

Most of what a small model reads for a token is its output matrix; a row that no player's language
needs costs time and memory for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from gguf import GGUFValueType, TokenType

from export.errors import VocabularyError
from export.gguf_file import Bytes, GgufModel, Tensor, Value, read_gguf
from export.keep_rule import NUM_PLACEHOLDERS, KeepRule, declared_characters, script_rule
from export.merge_path import close, split_merge
from export.vocabulary import MERGES, TOKENS, Vocabulary, is_byte_letter, read_vocabulary
from runtime.llama_backend import LlamaModel
from runtime.prompt import Special

ROW_TENSORS = ("token_embd.weight", "output.weight", "output.bias")
"""Tensors with a row (or a number) for each token."""

_DEFAULT_IDS = {
    "spm": {"bos": 1, "eos": 2, "unknown": 0},
    "bpe": {"bos": 11, "eos": 11},
}
"""Ids that llama.cpp takes when a key is absent; after trimming the key must be there."""


@dataclass(frozen=True, slots=True)
class TrimReport:
    """Rows before and after, and what of the declared characters the base has as one token."""

    num_before: int
    num_after: int
    num_characters: int


def trim(model: GgufModel, rule: KeepRule = script_rule) -> tuple[GgufModel, TrimReport]:
    """A model with the rows that `rule` keeps, in their old order. `model` is left alone.

    Raises VocabularyError where it has a tensor with a row for each token that is not known here.
    """
    vocabulary = read_vocabulary(model)
    kept = np.array(select(model, vocabulary, rule), np.int64)
    new_ids = {int(old): new for new, old in enumerate(kept)}
    trimmed = GgufModel(
        {
            key: value
            for key, value in model.metadata.items()
            if key != "tokenizer.huggingface.json"
        },
        {name: _trim_tensor(tensor, kept, vocabulary) for name, tensor in model.tensors.items()},
    )
    _trim_lists(trimmed, kept, vocabulary)
    _remap_ids(trimmed, vocabulary, new_ids)
    trimmed.set("persona.vocabulary.trimmed_from", GGUFValueType.UINT32, len(vocabulary.tokens))
    characters = _characters(read_vocabulary(trimmed))
    return trimmed, TrimReport(len(vocabulary.tokens), len(kept), len(characters))


def select(model: GgufModel, vocabulary: Vocabulary, rule: KeepRule) -> list[int]:
    """Ids to keep, ascending: what the rule says, what is merged on the way, what must stay."""
    user_defined, normal = set[int](), list[int]()
    for token in sorted(rule(vocabulary)):
        if vocabulary.types[token] == TokenType.USER_DEFINED:
            user_defined.add(token)  # found in the text by its spelling, not merged
        else:
            normal.append(token)
    kept = close(vocabulary, normal) | user_defined | _always_kept(vocabulary)
    return sorted(kept | set(_referenced(model, vocabulary)))


def _always_kept(vocabulary: Vocabulary) -> set[int]:
    fixed = (TokenType.CONTROL, TokenType.BYTE, TokenType.UNKNOWN)
    placeholders = filter(vocabulary.is_placeholder, range(len(vocabulary.tokens)))
    kept = {
        token
        for token, kind in enumerate(vocabulary.types)
        if kind in fixed and not vocabulary.is_placeholder(token)
    }
    if vocabulary.kind == "bpe":  # the bytes of every text
        kept |= {token for token, piece in enumerate(vocabulary.tokens) if is_byte_letter(piece)}
    return kept | set(islice(placeholders, NUM_PLACEHOLDERS))


def _referenced(model: GgufModel, vocabulary: Vocabulary) -> list[int]:
    keys = [key for key in model.metadata if _is_id(key)]
    named = [int(model.get(key)) for key in keys]
    defaults = [
        token
        for name, token in _DEFAULT_IDS[vocabulary.kind].items()
        if _id_key(name) not in model.metadata
    ]
    return [token for token in named + defaults if 0 <= token < len(vocabulary.tokens)]


def _is_id(key: str) -> bool:
    return key.startswith("tokenizer.ggml.") and key.endswith("_token_id")


def _id_key(name: str) -> str:
    return f"tokenizer.ggml.{name}_token_id"


def _trim_tensor(tensor: Tensor, kept: np.ndarray, vocabulary: Vocabulary) -> Tensor:
    num_tokens = len(vocabulary.tokens)
    if tensor.name not in ROW_TENSORS:
        if len(tensor.shape) > 1 and tensor.shape[0] == num_tokens:
            remedy = "build with --no-trim"
            raise VocabularyError(tensor.name, "no rows by token id", f"{num_tokens} rows", remedy)
        return tensor
    if tensor.name == "output.bias":
        values = tensor.floats()[kept].reshape(1, -1).view(np.uint8)
        return Tensor(tensor.name, (len(kept),), tensor.type, lambda: values)
    if tensor.shape[0] != num_tokens:
        found = f"{tensor.shape[0]}, but {num_tokens} tokens"
        raise VocabularyError(tensor.name, "a row for each token", found, "convert the base again")

    def load() -> Bytes:
        selected: Bytes = tensor.load()[kept]
        return selected

    return Tensor(tensor.name, (len(kept), *tensor.shape[1:]), tensor.type, load)


def _trim_lists(model: GgufModel, kept: np.ndarray, vocabulary: Vocabulary) -> None:
    for key, value in model.metadata.items():
        is_by_token = key.startswith("tokenizer.ggml.") and key != MERGES
        if is_by_token and value.item is not None and len(value.value) == len(vocabulary.tokens):
            model.metadata[key] = Value(value.type, [value.value[i] for i in kept], value.item)
    if vocabulary.kind == "bpe":
        pieces = set(model.get(TOKENS))
        merges = [merge for merge in vocabulary.merges if _is_mergeable(merge, pieces)]
        model.set_array(MERGES, GGUFValueType.STRING, merges)
    size_key = f"{model.architecture}.vocab_size"
    if size_key in model.metadata:
        model.set(size_key, GGUFValueType.UINT32, len(kept))


def _is_mergeable(merge: str, pieces: set[str]) -> bool:
    left, right = split_merge(merge)
    return left in pieces and right in pieces and left + right in pieces


def _remap_ids(model: GgufModel, vocabulary: Vocabulary, new_ids: dict[int, int]) -> None:
    for name, token in _DEFAULT_IDS[vocabulary.kind].items():
        if _id_key(name) not in model.metadata and token in new_ids:
            model.set(_id_key(name), GGUFValueType.UINT32, token)
    for key, value in model.metadata.items():
        if _is_id(key) and value.value in new_ids:
            model.metadata[key] = Value(value.type, new_ids[value.value])
        elif key.endswith(("suppress_tokens", "_token_ids")):
            ids = [new_ids[token] for token in value.value if token in new_ids]
            model.metadata[key] = Value(value.type, ids, value.item)


def _characters(vocabulary: Vocabulary) -> list[str]:
    """Declared characters that are one token of this vocabulary."""
    normal = {
        vocabulary.text(token)
        for token, kind in enumerate(vocabulary.types)
        if kind in (TokenType.NORMAL, TokenType.USER_DEFINED)
    }
    return [character for character in declared_characters() if character in normal]


def check(base: Path, trimmed: Path) -> list[str]:
    """What the trimmed vocabulary has lost, one line each; empty if nothing.

    With llama.cpp's own tokenizer: each declared character that is one token in the base is one
    in `trimmed`; each printable ASCII character is one at all; each kept piece tokenises as it did
    in the base, and to itself where it did; no text spells a special token.
    """
    before, after = LlamaModel(base, vocab_only=True), LlamaModel(trimmed, vocab_only=True)
    vocabulary = read_vocabulary(read_gguf(trimmed))
    try:
        problems = _check_characters(read_vocabulary(read_gguf(base)), vocabulary)
        problems += _check_pieces(before, after, vocabulary)
        return problems + _check_specials(after)
    finally:
        before.close()
        after.close()


def _check_characters(before: Vocabulary, after: Vocabulary) -> list[str]:
    # By the vocabulary: llama.cpp may spell an ASCII character with one byte token, which is not
    # what the model learnt it by (the way to an NLL of 8.86 with every piece tokenising to itself).
    kept = set(_characters(after))
    ascii_characters = map(chr, range(0x20, 0x7F))
    wanted = dict.fromkeys([*_characters(before), *ascii_characters])
    return [f"{character!r} is no token" for character in wanted if character not in kept]


def _check_pieces(before: LlamaModel, after: LlamaModel, vocabulary: Vocabulary) -> list[str]:
    problems = []
    for token, kind in enumerate(vocabulary.types):
        if kind not in (TokenType.NORMAL, TokenType.USER_DEFINED):
            continue
        text = vocabulary.text(token)
        if text is None:  # a part of a character: no text to tokenise
            continue
        old, new = _spelt(before, text), _spelt(after, text)
        if old != new:
            problems.append(f"{text!r} was {old} and is {new}")
    return problems


def _spelt(model: LlamaModel, text: str) -> list[str]:
    return [model.token_text(token) for token in model.tokenize(text)]


def _check_specials(model: LlamaModel) -> list[str]:
    specials = {token: name for name in Special if (token := model.find_token(name)) is not None}
    spelt: Sequence[int] = model.tokenize(" ".join(Special) + "".join(Special))
    return [
        f"the text {specials[token]} spells the special token"
        for token in set(spelt) & specials.keys()
    ]
