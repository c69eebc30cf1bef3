"""Gives the seven special tokens of the prompt format a place in a vocabulary, and rows.

They take entries that the base keeps free (Gemma's `<unusedN>`, Qwen's padding rows); only where
those do not suffice are rows appended. A row starts as the mean of the rows of words that describe
the block, so that an untrained model already reads it as something of that kind.
"""

from collections.abc import Mapping

import numpy as np
from gguf import GGMLQuantizationType, GGUFValueType, TokenType

from export.errors import VocabularyError
from export.gguf_file import Bytes, Floats, GgufModel, Tensor, row_bytes
from export.merge_path import make_rank, steps
from export.quant_types import convert, is_writable, quantise_rows
from export.vocabulary import SCORES, TOKENS, TYPES, Vocabulary, read_vocabulary
from runtime.prompt import Special

WORDS = {
    Special.SYS: ("system", "character", "persona", "setting", "인물", "성격", "설정"),
    Special.CTX: ("context", "conversation", "dialogue", "history", "대화", "이야기"),
    Special.RAG: ("knowledge", "description", "scene", "instructions", "설명", "상황"),
    Special.PLAYER_STATE: ("state", "status", "inventory", "location", "상태", "위치"),
    Special.PLAYER: ("player", "user", "visitor", "traveler", "손님", "여행"),
    Special.STATE: ("decision", "feeling", "mood", "trust", "결정", "기분", "마음"),
    Special.NPC: ("reply", "answer", "villager", "merchant", "대답", "주민"),
}
"""Words whose rows a special token's first row is the mean of."""

ROW_TENSORS = ("token_embd.weight", "output.weight")
_SCORE = -1000.0  # what Gemma's own control tokens have


def special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """Ids of the special tokens. Raises VocabularyError for one that is missing."""
    ids = vocabulary.ids()
    if missing := " ".join(name for name in Special if name not in ids):
        remedy = "build the model with `persona bundle build`"
        raise VocabularyError(
            "vocabulary", "the seven special tokens", f"none spelt {missing}", remedy
        )
    return {str(name): ids[name] for name in Special}


def claim(model: GgufModel) -> tuple[GgufModel, dict[str, int]]:
    """A model with the special tokens typed CONTROL and their rows set; ids by name.

    A special token that is there already keeps its row. Raises VocabularyError when text could
    spell one of them.
    """
    vocabulary = read_vocabulary(model)
    for special in Special:
        _refuse_spellable(vocabulary, special)
    known = vocabulary.ids()
    new = [name for name in Special if name not in known]
    free = [i for i in range(len(vocabulary.tokens)) if vocabulary.is_placeholder(i)]
    appended = range(len(vocabulary.tokens), len(vocabulary.tokens) + len(new))
    places = dict(zip(new, [*free[: len(new)], *appended], strict=False))
    claimed = GgufModel(dict(model.metadata), dict(model.tensors))
    _set_entries(claimed, vocabulary, places)
    words = {token: _word_tokens(vocabulary, name) for name, token in places.items()}
    for name in ROW_TENSORS:
        if name in claimed.tensors:
            tensor = claimed.tensors[name]
            rows = {token: tensor.rows(tokens).mean(axis=0) for token, tokens in words.items()}
            claimed.add(set_rows(tensor, rows))
    return claimed, special_ids(read_vocabulary(claimed))


def set_rows(tensor: Tensor, rows: Mapping[int, Floats]) -> Tensor:
    """A tensor with some rows replaced, or appended where the id is past the end.

    Its type is kept where we can write it; else (K-quants) the whole tensor becomes Q8_0.
    """
    if not rows:
        return tensor
    kind = tensor.type if is_writable(tensor.type) else GGMLQuantizationType.Q8_0
    height = max(tensor.shape[0], max(rows) + 1)
    width = row_bytes(tensor.shape[1], kind)
    ids = np.array(list(rows), np.int64)
    values = quantise_rows(np.stack([rows[token] for token in rows]), kind)

    def load() -> Bytes:
        data = np.zeros((height, width), np.uint8)
        old = tensor.load()
        data[: len(old)] = old if kind == tensor.type else convert(old, tensor.type, kind)
        data[ids] = values
        return data

    return Tensor(tensor.name, (height, tensor.shape[1]), kind, load)


def _refuse_spellable(vocabulary: Vocabulary, name: str) -> None:
    # SPM merges any two neighbours whose concatenation is an entry, control tokens too.
    pieces = set(vocabulary.tokens)
    for at in range(1, len(name)):
        if vocabulary.kind == "spm" and name[:at] in pieces and name[at:] in pieces:
            found = f"the pieces {name[:at]!r} and {name[at:]!r}, which merge to it"
            remedy = "trim the vocabulary so that one of them goes"
            raise VocabularyError(name, "no way for text to spell it", found, remedy)


def _set_entries(model: GgufModel, vocabulary: Vocabulary, places: Mapping[Special, int]) -> None:
    num_more = max([0, *(token + 1 - len(vocabulary.tokens) for token in places.values())])
    tokens = [*vocabulary.tokens, *[""] * num_more]
    types = [*map(int, vocabulary.types), *[0] * num_more]
    for name, token in places.items():
        tokens[token] = str(name)
    for token, piece in enumerate(tokens):
        if piece in set(Special):
            types[token] = int(TokenType.CONTROL)
    model.set_array(TOKENS, GGUFValueType.STRING, tokens)
    model.set_array(TYPES, GGUFValueType.INT32, types)
    if SCORES in model.metadata:
        scores = [*model.get(SCORES), *[_SCORE] * num_more]
        model.set_array(SCORES, GGUFValueType.FLOAT32, scores)
    if (key := f"{model.architecture}.vocab_size") in model.metadata:
        model.set(key, GGUFValueType.UINT32, len(tokens))


def _word_tokens(vocabulary: Vocabulary, name: Special) -> list[int]:
    ids, rank = vocabulary.ids(), make_rank(vocabulary)
    parts: list[str] = []
    for word in WORDS[name]:
        *_, spelt = steps(vocabulary.encode(" " + word), rank)
        parts += spelt
    return [ids[part] for part in parts if part in ids]
