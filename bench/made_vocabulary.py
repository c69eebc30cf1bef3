"""A byte-level BPE vocabulary of any size that belongs to nobody, with the special tokens in it.

Its merges make Hangul syllables and pairs of them, and English a few letters at a time, so that a
text has about as many tokens as with a vocabulary that was learned.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice, product
from string import ascii_lowercase

from gguf import GGUFValueType, TokenType

from export.gguf_file import GgufModel
from export.vocabulary import MERGES, TOKENS, TYPES, Vocabulary, is_byte_letter
from runtime.prompt import Special

NUM_SPARE = 293
"""Entries after the pieces, as many as Qwen2.5 has: control tokens, then padding."""
NUM_BYTES = 256

_ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_SYLLABLES = [chr(code) for code in range(0xAC00, 0xD7A4)]
_OPEN_SYLLABLES = _SYLLABLES[::28]
"""Those without a final consonant."""


def set_vocabulary(model: GgufModel, num_tokens: int) -> None:
    """Gives `model` a vocabulary of `num_tokens`, from 549 (bytes and control tokens alone).

    The ids are those of Qwen2.5 in kind: bytes, merged pieces, control tokens (the seven special
    tokens among them, last), unused padding.
    """
    num_merges = num_tokens - NUM_BYTES - NUM_SPARE
    merges = list(islice(_merges(), num_merges))
    assert len(merges) == num_merges >= 0, num_tokens
    control = [*_ENDS, *map(str, Special)]
    letters = [letter for letter in map(chr, range(2 * NUM_BYTES)) if is_byte_letter(letter)]
    pieces = [*letters, *(left + right for left, right in merges)]
    padding = [f"[PAD{token}]" for token in range(len(pieces) + len(control), num_tokens)]
    types = [
        *[TokenType.NORMAL] * len(pieces),
        *[TokenType.CONTROL] * len(control),
        *[TokenType.UNUSED] * len(padding),
    ]
    model.set("tokenizer.ggml.model", GGUFValueType.STRING, "gpt2")
    model.set("tokenizer.ggml.pre", GGUFValueType.STRING, "qwen2")
    model.set_array(TOKENS, GGUFValueType.STRING, [*pieces, *control, *padding])
    model.set_array(TYPES, GGUFValueType.INT32, [int(kind) for kind in types])
    joined = [f"{left} {right}" for left, right in merges]
    model.set_array(MERGES, GGUFValueType.STRING, joined)
    end = len(pieces)
    for name, token in {"bos": end, "eos": end + 2, "padding": end}.items():
        model.set(f"tokenizer.ggml.{name}_token_id", GGUFValueType.UINT32, token)
    model.set("tokenizer.ggml.add_bos_token", GGUFValueType.BOOL, False)


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of pieces, each of them a byte or merged earlier; no pair comes twice."""
    spell = partial(Vocabulary.encode, Vocabulary("bpe", (), (), (), ()))
    space = spell(" ")
    words = ["".join(pair) for pair in product(ascii_lowercase, repeat=2)]
    yield from product(ascii_lowercase, repeat=2)
    yield from ((space, letter) for letter in ascii_lowercase)
    yield from ((space + word[0], word[1]) for word in words)
    spelt = [spell(syllable) for syllable in _SYLLABLES]
    yield from dict.fromkeys((piece[0], piece[1]) for piece in spelt)
    yield from ((piece[:2], piece[2]) for piece in spelt)
    yield from ((space, piece) for piece in spelt)
    yield from product(words, ascii_lowercase)
    yield from product((space + word for word in words), ascii_lowercase)
    yield from product(map(spell, _OPEN_SYLLABLES), repeat=2)
