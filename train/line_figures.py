"""Figures of generated lines, beside those of the labelled responses to the same turns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from runtime.sequence import FinishReason
from train.data_summary import distinct_2
from train.dataset import DatasetError, TurnLabel
from train.line_checks import loop, markup, repetition, spoken_language
from train.predicted import Grouped, Rows, grouped

MAX_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class GeneratedLine:
    """What was generated in answer to a turn; `finish_reason` is one of FinishReason."""

    turn: TurnLabel
    text: str
    finish_reason: str
    decision: str = ""
    """What stood before it, in the prompt's words."""
    num_attempts: int = 1
    """At a line that does not seem to contradict it."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is said."""
        return not self.text.strip()


class LineMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """Measures of one set of lines; shares are of all of them, empty ones too, in [0, 1].

    `offences`: the share with each of OFFENCES. `in_language`: the share that says something, in
    the player's language. `said_again`: the share that took more than one attempt. `repetition`:
    mean of line_checks.repetition. Lengths are in characters. `distinct_2`: distinct word bigrams
    over all (Li et al. 2016).
    """

    num_lines: int
    in_language: float
    offences: dict[str, float]
    said_again: float
    repetition: float
    median_length: float
    p95_length: float
    distinct_2: float


class Compared(msgspec.Struct, frozen=True):
    """Generated lines beside the labelled responses."""

    generated: LineMeasures
    labelled: LineMeasures


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A line with an offence, and what it answers."""

    npc_id: str
    conversation: str
    turn: int
    player_utterance: str
    text: str


class LineFigures(msgspec.Struct, frozen=True):
    """Measures in all and by group; up to MAX_EXAMPLES of each offence that occurs."""

    figures: Grouped[Compared]
    examples: dict[str, list[Example]]


def _is_in_language(line: GeneratedLine) -> bool:
    return not line.is_empty and spoken_language(line.text, line.turn.lang) == line.turn.lang


OFFENCES: dict[str, Callable[[GeneratedLine], bool]] = {
    "another language": lambda line: not line.is_empty and not _is_in_language(line),
    "tag or token": lambda line: markup(line.text) is not None,
    "loop": lambda line: loop(line.text) is not None,
    "empty": lambda line: line.is_empty,
    "cut by length": lambda line: line.finish_reason == FinishReason.LENGTH,
}


def line_figures(lines: Sequence[GeneratedLine]) -> LineFigures:
    """The figures of `lines`. Raises DatasetError if there is none."""
    if not lines:
        raise DatasetError("no generated line to look at; the split needs labelled turns")
    turns = [line.turn for line in lines]
    labelled = [GeneratedLine(turn, turn.response, FinishReason.STOP) for turn in turns]

    def compared(rows: Rows) -> Compared:
        return Compared(*(_measures([each[row] for row in rows]) for each in (lines, labelled)))

    return LineFigures(grouped(turns, compared), _examples(lines))


def _measures(lines: Sequence[GeneratedLine]) -> LineMeasures:
    lengths = [len(line.text.strip()) for line in lines]
    return LineMeasures(
        num_lines=len(lines),
        in_language=_share(lines, _is_in_language),
        offences={name: _share(lines, is_so) for name, is_so in OFFENCES.items()},
        said_again=_share(lines, lambda line: line.num_attempts > 1),
        repetition=float(np.mean([repetition(line.text, line.turn.lang) for line in lines])),
        median_length=float(np.median(lengths)),
        p95_length=float(np.percentile(lengths, 95)),
        distinct_2=distinct_2(line.text for line in lines),
    )


def _share(lines: Sequence[GeneratedLine], is_so: Callable[[GeneratedLine], bool]) -> float:
    return sum(map(is_so, lines)) / len(lines)


def _examples(lines: Sequence[GeneratedLine]) -> dict[str, list[Example]]:
    """The first lines with each offence."""
    found = {name: [line for line in lines if is_so(line)] for name, is_so in OFFENCES.items()}
    return {
        name: [
            Example(
                npc_id=line.turn.npc_id,
                conversation=line.turn.conversation,
                turn=line.turn.turn,
                player_utterance=line.turn.player_utterance,
                text=line.text,
            )
            for line in offenders[:MAX_EXAMPLES]
        ]
        for name, offenders in found.items()
        if offenders
    }
