"""Writes and prints the report of `persona evaluate`."""

from pathlib import Path

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from train.commands import write_whole
from train.report_contents import Report
from train.report_grid import Grid
from train.report_html import page
from train.report_tables import sections
from train.samples import as_markdown

REPORT_JSON, REPORT_HTML, SAMPLES = "report.json", "report.html", "samples.md"


def write_report(folder: Path, report: Report) -> None:
    """Write the whole of `report` as JSON and as a page that needs no network, and its samples.

    The folder is made if need be. All are made before any is written, and the largest is written
    first: a failure leaves what was there. Raises OSError where the folder can't be written.
    """
    html = page(report).encode()
    json = msgspec.json.encode(report) + b"\n"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / REPORT_HTML, html)
    write_whole(folder / REPORT_JSON, json)
    if report.samples:
        title = f"Lines of {report.meta.title}"
        write_whole(folder / SAMPLES, as_markdown(report.samples, title).encode())


def print_report(report: Report, console: Console | None = None) -> None:
    """Print the tables, without those that explain others (bins, examples)."""
    console = console or Console()
    for section in sections(report):
        if section.grids:
            console.rule(Text(section.title, "bold"), align="left")
            console.print(Text(section.note, "dim"))
        for grid in section.grids:
            console.print(_table(grid))


def _table(grid: Grid) -> Table:
    title = Text(grid.title) if grid.title else None
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for number, name in enumerate(grid.header):
        table.add_column(Text(name), justify="right" if number else "left")
    for row in grid.rows:
        table.add_row(*map(Text, row))
    return table
