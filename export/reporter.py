"""Tells whoever waits how far something has come; imports nothing that a lean host lacks."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import TracebackType
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

LINE_S = 60.0
"""Seconds between two lines about one stage, where there is no terminal for a bar."""


class Reporter(Protocol):
    """Is told of stages and how far they are."""

    def stage(self, name: str, total: int | None = None) -> Callable[[int], None]:
        """A stage begins, of `total` bytes or things; call the result with those newly done."""

    def say(self, text: str) -> None:
        """A line that stays."""


class TransferReporter(Reporter, Protocol):
    """One that also makes room for the bars of another library."""

    def aside(self) -> AbstractContextManager[None]:
        """Inside it the other library draws."""


class RichReporter:
    """Stages with bars on a terminal; plain lines where there is none."""

    def __init__(self, console: Console) -> None:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
        )
        self._console = console
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)

    def __enter__(self) -> "RichReporter":
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, total: int | None = None) -> Callable[[int], None]:
        """A bar for a stage; the one before it is done."""
        self._end_stage()
        if not self._console.is_terminal:
            self.say(name)
            return self._lines(name, total)
        task = self._progress.add_task(name, total=total)
        return lambda done: self._progress.advance(task, done)

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """No bars of ours for a while."""
        self._end_stage()
        self._progress.stop()
        try:
            yield
        finally:
            self._progress.start()

    def _lines(self, name: str, total: int | None) -> Callable[[int], None]:
        num_done, told = 0, time.monotonic()

        def advance(done: int) -> None:
            nonlocal num_done, told
            num_done += done
            if total and time.monotonic() - told >= LINE_S:
                told = time.monotonic()
                self.say(f"{name}: {num_done / total:.0%}")

        return advance

    def _end_stage(self) -> None:
        for task_id in self._progress.task_ids:
            self._progress.remove_task(task_id)
