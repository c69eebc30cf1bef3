"""The section of a report on generated lines."""

from collections.abc import Callable

from train.line_figures import OFFENCES, Example, LineFigures, LineMeasures
from train.report_grid import Grid, Row, Section, by_group, number

LINES = "Generated lines"

_NOTE = (
    "Shares are of all lines. Said again: the first attempt seemed to contradict the decision. "
    "Repetition: mean share of a line's 4-grams (syllables in Korean, "
    "words in English) that occurred before in it. Loop: four letters or more, three times in a "
    "row. Lengths are in characters. Distinct-2: distinct word bigrams over all."
)


def _share(value: float) -> str:
    return f"{value:.1%}"


def _offence(name: str) -> Callable[[LineMeasures], str]:
    return lambda measures: _share(measures.offences[name])


_MEASURES: dict[str, Callable[[LineMeasures], str]] = {
    "lines": lambda measures: f"{measures.num_lines:,}",
    "in the player's language": lambda measures: _share(measures.in_language),
    **{name: _offence(name) for name in OFFENCES},
    "said again": lambda measures: _share(measures.said_again),
    "repetition": lambda measures: _share(measures.repetition),
    "median length": lambda measures: f"{measures.median_length:.0f}",
    "95% are shorter than": lambda measures: f"{measures.p95_length:.0f}",
    "distinct-2": lambda measures: number(measures.distinct_2),
}


def line_section(lines: LineFigures) -> Section:
    """Measures beside those of the labelled responses, then by group; examples as details."""
    whole = lines.figures.whole
    compared = [
        (name, measure(whole.generated), measure(whole.labelled))
        for name, measure in _MEASURES.items()
    ]
    groups = by_group(lines.figures, lambda each: _cells(each.generated))
    return Section(
        LINES,
        _NOTE,
        [
            Grid("", ("", "generated", "labelled"), compared),
            Grid("generated, by NPC and language", ("", *_MEASURES), groups),
        ],
        [_examples(name, found) for name, found in lines.examples.items()],
    )


def _cells(measures: LineMeasures) -> Row:
    return [measure(measures) for measure in _MEASURES.values()]


def _examples(name: str, examples: list[Example]) -> Grid:
    rows = [
        (each.npc_id, f"{each.conversation}, {each.turn}", each.player_utterance, each.text)
        for each in examples
    ]
    return Grid(name, ("NPC", "conversation, turn", "player", "line"), rows)
