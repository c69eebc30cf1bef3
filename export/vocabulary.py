"""The vocabulary inside a GGUF: pieces, types, scores or merges, and a hash of what is served."""

import hashlib
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar, cast

from gguf import TokenType

from export.errors import VocabularyError
from export.gguf_file import GgufModel

T = TypeVar("T")

KIND = "tokenizer.ggml.model"
TOKENS = "tokenizer.ggml.tokens"
TYPES = "tokenizer.ggml.token_type"
SCORES = "tokenizer.ggml.scores"
MERGES = "tokenizer.ggml.merges"
SPACE = "▁"
_CONVERT = "convert the model again"

PLACEHOLDER = re.compile(r"<unused\d+>|\[PAD\d+\]|<\|reserved_special_token_\d+\|>")
"""Entries that a base keeps free: Gemma, Qwen's padding rows as llama.cpp names them, Llama 3."""


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Pieces by token id. `spm` merges by score, `bpe` by the rank of a merge."""

    kind: Literal["spm", "bpe"]
    tokens: Sequence[str]
    types: Sequence[TokenType]
    scores: Sequence[float]
    """By token id; of `spm` only."""

    merges: Sequence[str]
    """Pairs "left right", best first; of `bpe` only."""

    def text(self, token: int) -> str | None:
        """The text a NORMAL or USER_DEFINED piece stands for; None if it is only a part of one."""
        return self.decode(self.tokens[token])

    def decode(self, piece: str) -> str | None:
        """Text of a piece as it is spelt in the vocabulary; None if it is only a part of one."""
        if self.kind == "spm":
            return piece.replace(SPACE, " ")
        try:
            return decode_bytes(piece).decode("utf-8")
        except (KeyError, UnicodeDecodeError):
            return None

    def encode(self, text: str) -> str:
        """Text as pieces spell it, before any merge."""
        if self.kind == "spm":
            return text.replace(" ", SPACE)
        letters = {byte: letter for letter, byte in _alphabet().items()}
        return "".join(letters[byte] for byte in text.encode("utf-8"))

    def ids(self) -> dict[str, int]:
        """Token id of each piece."""
        return {piece: token for token, piece in enumerate(self.tokens)}

    def is_placeholder(self, token: int) -> bool:
        """Whether the base left this entry free."""
        kept_free = self.types[token] in (TokenType.CONTROL, TokenType.UNUSED)
        return kept_free and PLACEHOLDER.fullmatch(self.tokens[token]) is not None


def read_vocabulary(model: GgufModel) -> Vocabulary:
    """The vocabulary of a model.

    Raises VocabularyError for a tokenizer that is neither kind, and where its lists do not agree.
    """
    kind = model.get(KIND)
    if kind not in ("llama", "gpt2"):
        remedy = "choose a base with an SPM or a BPE vocabulary"
        raise _error(model, KIND, "'llama' (SPM) or 'gpt2' (BPE)", repr(kind), remedy)
    tokens = _list(model, TOKENS, str)
    types = _list(model, TYPES, int, len(tokens))
    if unknown := {*types} - {*TokenType}:
        expected = f"types from {min(TokenType)} to {max(TokenType)}"
        raise _error(model, TYPES, expected, str(min(unknown)), _CONVERT)
    kinds = [TokenType(number) for number in types]
    if kind == "gpt2":
        merges = _list(model, MERGES, str) if model.get(MERGES) else []
        return Vocabulary("bpe", tokens, kinds, (), merges)
    has_scores = bool(model.get(SCORES))  # llama.cpp reads an empty array as an absent one
    scores = _list(model, SCORES, float, len(tokens)) if has_scores else [0.0] * len(tokens)
    return Vocabulary("spm", tokens, kinds, scores, ())


def _list(model: GgufModel, key: str, kind: type[T], length: int | None = None) -> list[T]:
    found = model.get(key)
    is_list = isinstance(found, list) and all(isinstance(item, kind) for item in found)
    if not is_list or length not in (None, len(found)):
        expected = f"a list of {kind.__name__}"
        if length is not None:
            expected = f"{length} of {kind.__name__}, one for each token"
        what = f"a list of {len(found)}" if isinstance(found, list) else repr(found)
        raise _error(model, key, expected, what, _CONVERT)
    return cast("list[T]", found)


def _error(model: GgufModel, key: str, expected: str, found: str, remedy: str) -> VocabularyError:
    subject = f"{model.path}: {key}" if model.path else key
    return VocabularyError(subject, expected, found, remedy)


def vocabulary_sha256(tokens: Sequence[str], types: Sequence[int]) -> str:
    """Hex SHA-256 of all tokens by id.

    Of each: its length in UTF-8 (u32, little-endian), its UTF-8, its type (u8).
    """
    digest = hashlib.sha256()
    for piece, kind in zip(tokens, types, strict=True):
        raw = piece.encode("utf-8", "surrogateescape")
        digest.update(struct.pack("<I", len(raw)) + raw + bytes([int(kind)]))
    return digest.hexdigest()


def model_vocabulary_sha256(model: GgufModel) -> str:
    """`vocabulary_sha256` of a GGUF model."""
    vocabulary = read_vocabulary(model)
    return vocabulary_sha256(vocabulary.tokens, vocabulary.types)


@cache
def _alphabet() -> dict[str, int]:
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + at): byte for at, byte in enumerate(others)
    }


def decode_bytes(piece: str) -> bytes:
    """The bytes of a byte-level piece (GPT-2's alphabet). Raises KeyError for other letters."""
    alphabet = _alphabet()
    return bytes(alphabet[letter] for letter in piece)


def is_byte_letter(piece: str) -> bool:
    """Whether a byte-level piece is one letter of the byte alphabet."""
    return piece in _alphabet()
