"""How far something has come, where there is no terminal."""

from io import StringIO

import pytest
from rich.console import Console

from export.reporter import RichReporter


def lines_of(total: int | None) -> list[str]:
    console = Console(file=StringIO(), force_terminal=False)
    with RichReporter(console) as reporter:
        done = reporter.stage("reading", total)
        for _ in range(4):
            done(5)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue().splitlines()


def test_without_a_terminal_a_long_stage_says_how_far_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("export.reporter.LINE_S", 0.0)
    shares = ["reading: 25%", "reading: 50%", "reading: 75%", "reading: 100%"]
    assert lines_of(20) == ["reading", *shares]
    assert lines_of(None) == ["reading"], "nobody knows how much there is"


def test_a_quick_stage_is_one_line() -> None:
    assert lines_of(20) == ["reading"]
