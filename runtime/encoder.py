"""From segments to token ids: special tokens by id, everything else as harmless text."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from runtime.errors import ModelError
from runtime.prompt import End, Segment, Special


class Vocabulary(Protocol):
    """What the encoder needs of a model; `LlamaModel` is one."""

    @property
    def bos(self) -> int | None:
        """The token that begins every sequence, if the model has one."""

    @property
    def eos(self) -> int:
        """The token that ends a reply."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of `text`, with no special token parsed from it."""

    def find_token(self, text: str) -> int | None:
        """The id of the vocabulary entry spelt exactly `text`."""

    def is_control(self, token: int) -> bool:
        """Whether text can never tokenise to `token`."""


_REMEMBERED = 1_024
_LONGEST_REMEMBERED = 1_000
"""Texts, and characters of one, whose token ids are remembered: the world's come again."""


class PromptEncoder:
    """Encodes segments with one vocabulary. `special_ids` are taken from the manifest.

    Raises ModelError when the vocabulary disagrees with `special_ids`, or when text could spell a
    special token.
    """

    def __init__(self, vocabulary: Vocabulary, special_ids: Mapping[str, int]) -> None:
        self._vocabulary = vocabulary
        self._tokenize = lru_cache(_REMEMBERED)(lambda text: tuple(vocabulary.tokenize(text)))
        self._ids = {special: self._checked(special, special_ids) for special in Special}

    def _checked(self, special: Special, special_ids: Mapping[str, int]) -> int:
        found, expected = self._vocabulary.find_token(special), special_ids.get(special)
        if found is None or found != expected:
            raise ModelError(
                f"special token {special}: the manifest says id {expected}, the model's "
                f"vocabulary says {found}; run `persona bundle build --force`"
            )
        if not self._vocabulary.is_control(found):
            raise ModelError(
                f"special token {special} (id {found}) is not of type CONTROL, so players "
                "could type it; run `persona bundle build --force`"
            )
        return found

    @property
    def state_id(self) -> int:
        """The id of `<STATE>`."""
        return self._ids[Special.STATE]

    def begin(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of a sequence that begins with `segments`: BOS first, if the model has it."""
        bos = self._vocabulary.bos
        return [*([] if bos is None else [bos]), *self.encode(segments)]

    def encode(self, segments: Iterable[Segment]) -> list[int]:
        """Token ids of `segments`, to append to a sequence that has begun."""
        ids: list[int] = []
        for segment in segments:
            if isinstance(segment, Special):
                ids.append(self._ids[segment])
            elif isinstance(segment, End):
                ids.append(self._vocabulary.eos)
            else:
                is_short = len(segment) <= _LONGEST_REMEMBERED
                ids += (self._tokenize if is_short else self._vocabulary.tokenize)(segment)
        return ids


def find_special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """The ids of the special tokens that a vocabulary has, by spelling."""
    found = {special.value: vocabulary.find_token(special) for special in Special}
    return {special: token for special, token in found.items() if token is not None}
