"""A report as one HTML page: no script, nothing loaded, fit for a phone, by day and by night."""

from collections.abc import Iterator, Mapping
from html import escape

from train.evaluation import Evaluation
from train.report_contents import Report
from train.report_grid import Grid, Row, Section
from train.report_plots import (
    Draw,
    draw_directions,
    draw_precision_recall,
    draw_reliability,
    draw_scatter,
    draw_svg,
)
from train.report_tables import CALIBRATION, DELTAS, FLAGS, sections

_PLOTS: dict[str, dict[str, Draw]] = {
    FLAGS: {
        "Precision over recall (average precision); a dot at the threshold": draw_precision_recall
    },
    CALIBRATION: {"Reliability diagram": draw_reliability},
    DELTAS: {
        "Predicted over labelled delta": draw_scatter,
        "Directions, labelled and predicted": draw_directions,
    },
}
"""By section: what each plot shows, and who draws it."""

_STYLE = """
:root { color-scheme: light dark; }
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem; }
h1 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 1rem; } dd { margin: 0; }
dd, td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: bold; padding: 0.5rem 0; }
th, td { padding: 0.25rem 0.6rem; text-align: left; vertical-align: top; }
td { border-top: 1px solid #8886; min-width: 4rem; }
p.note { font-size: 0.85rem; opacity: 0.8; max-width: 45rem; }
figure { margin: 1.5rem 0; max-width: 36rem; } svg { max-width: 100%; height: auto; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(report: Report) -> str:
    """The whole page. Every text of the report is escaped."""
    meta = report.meta
    title = escape(meta.title)
    facts = {name: getattr(meta, name) for name in meta.__struct_fields__ if name != "title"}
    told = "".join(f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts.items())
    body = "\n".join(_section(each, report.predictors) for each in sections(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<dl>{told}</dl>
{body}
</body>
</html>
"""


def _section(section: Section, predictors: Mapping[str, Evaluation]) -> str:
    grids = "".join(map(_grid, section.grids))
    plots = "".join(_plots(section.title, predictors))
    details = "".join(
        f"<details><summary>{escape(grid.title)}</summary>{_grid(grid)}</details>"
        for grid in section.details
    )
    note = f'<p class="note">{escape(section.note)}</p>'
    return f"<section><h2>{escape(section.title)}</h2>{note}{grids}{plots}{details}</section>"


def _grid(grid: Grid) -> str:
    header = "".join(f'<th scope="col">{escape(name)}</th>' for name in grid.header)
    rows = "".join(_row(row[0], row[1:]) for row in grid.rows)
    caption = f"<caption>{escape(grid.title)}</caption>" if grid.title else ""
    table = f"<table>{caption}<thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _row(name: str, cells: Row) -> str:
    told = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f'<tr><th scope="row">{escape(name)}</th>{told}</tr>'


def _plots(title: str, predictors: Mapping[str, Evaluation]) -> Iterator[str]:
    for what, draw in _PLOTS.get(title, {}).items():
        for number, (name, evaluation) in enumerate(predictors.items()):
            svg = draw_svg(draw, evaluation, f"{draw.__name__}-{number}")
            yield f"<figure>{svg}<figcaption>{escape(f'{what}: {name}')}</figcaption></figure>"
