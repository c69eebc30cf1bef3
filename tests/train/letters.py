"""Transcripts on a vocabulary of single letters."""

from collections.abc import Sequence

from runtime.encoder import PromptEncoder
from runtime.prompt import Special
from tests.train.turns import WORLD, label
from train.dataset import TurnLabel
from train.examples import Example
from train.transcripts import TranscriptWriter

EOS = 1
FIRST_LETTER = 100


class Letters:
    """A vocabulary that has a token for each letter."""

    bos = 0
    eos = EOS

    def tokenize(self, text: str) -> list[int]:
        return [FIRST_LETTER + ord(letter) for letter in text]

    def find_token(self, text: str) -> int | None:
        return SPECIALS.get(text)

    def is_control(self, token: int) -> bool:
        return token < FIRST_LETTER


SPECIALS = {str(special): 10 + at for at, special in enumerate(Special)}
WRITER = TranscriptWriter(WORLD, PromptEncoder(Letters(), SPECIALS))
ALL = 10**6
"""More tokens than any of these transcripts has."""


def conversation(name: str, num_turns: int, length: int = 9) -> list[TurnLabel]:
    return [
        label(
            at,
            conversation=name,
            player_utterance=f"{name}{at}".ljust(length, "?"),
            response=f"{name} {at} answer".ljust(length, "!"),
            delta={"trust": at / 10, "relationship": -at / 20},
        )
        for at in range(num_turns)
    ]


def learned(example: Example) -> list[int]:
    return [example.tokens[at + 1] for at in example.answers]


def replies(labels: Sequence[TurnLabel]) -> list[int]:
    return [token for turn in labels for token in [*Letters().tokenize(turn.response), EOS]]
