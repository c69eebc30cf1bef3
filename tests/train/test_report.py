from collections.abc import Iterator
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tests.train.predictions import noisy, predict, turns
from tests.train.turns import label
from train.baselines import Baseline
from train.bootstrap import Estimate
from train.evaluation import evaluate
from train.line_figures import GeneratedLine, line_figures
from train.metrics import Scores
from train.perplexity import ReplyScore, perplexity
from train.report import print_report, write_report
from train.report_contents import Meta, Report
from train.samples import samples_of
from train.voice import Voice

META = Meta(
    title="Bundle <b>1</b>",
    bundle="b & c",
    model="model.gguf",
    split="test",
    machine="a desk",
    date="2026-01-01",
)
VOID = {"meta", "br", "img", "link", "input"}
EVIL = "<script>alert('x')</script>"


class Page(HTMLParser):
    """A page that is well formed: what it holds."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.text += data


def make_report() -> Report:
    labels = [label(n, lang="ko", player_utterance=EVIL) for n in range(2)]
    lines = [
        GeneratedLine(labels[0], f"<NPC> {EVIL}", "stop"),
        GeneratedLine(labels[1], "", "length"),
    ]
    scores = Scores(0.123, {"a": 0.5}, 0.222, 0.75, None, 0.875)
    share = Estimate(0.91, 0.88, 0.94)
    voice = Voice(
        num_turns=1_234,
        npc=share,
        state=share,
        both=Estimate(0.5),
        decided=share,
        num_changed=321,
        changed=share,
    )
    return Report(
        meta=META,
        predictors={
            "머리, continued": evaluate(noisy(60, npc_id=["mina", "rok"] * 30)),
            "heads, rebuilt": evaluate(noisy(60, seed=1)),
        },
        baselines=[Baseline("majority", scores, scores, None, 0.987)],
        perplexity=perplexity([ReplyScore(labels[0], 10, 20.0, 30.0)]),
        voice=voice,
        lines=line_figures(lines),
        samples=samples_of(lines, 7),
    )


@pytest.fixture(scope="module")
def report() -> Report:
    return make_report()


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "new"
    write_report(folder, report)
    return folder


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_the_json_is_the_whole_report(report: Report, written: Path) -> None:
    assert msgspec.json.decode((written / "report.json").read_bytes(), type=Report) == report
    assert sorted(path.name for path in written.iterdir()) == [
        "report.html",
        "report.json",
        "samples.md",
    ]


def test_the_samples_are_the_lines_as_they_came(written: Path) -> None:
    text = (written / "samples.md").read_text(encoding="utf-8")
    assert f"<NPC> {EVIL}" in text
    assert [f"seed {seed}" in text for seed in (7, 8, 9)] == [True, True, False]


def test_the_page_has_a_section_for_all_that_was_measured(page: Page) -> None:
    assert page.headings == [
        "Summary", "Flags", "Calibration", "Deltas", "NPCs and languages",
        "Likelihood of the responses", "Voice", "Generated lines",
    ]  # fmt: skip
    for told in (
        "머리, continued",
        "majority",
        "0.987",
        "b & c",
        "mina",
        "cut by length",
        "20.09",
        "321",
    ):
        assert told in page.text


def test_each_predictor_has_its_plots(page: Page) -> None:
    assert page.tags.count("svg") == page.tags.count("figcaption") == 2 * 4
    for what in ("Precision over recall", "Reliability", "Predicted over", "Directions"):
        assert f"{what}" in page.text


def test_what_players_and_models_say_is_shown_and_never_markup(page: Page) -> None:
    assert "script" not in page.tags
    assert "npc" not in page.tags
    assert EVIL in page.text
    assert f"<NPC> {EVIL}" in page.text
    assert "Bundle <b>1</b>" in page.text


def test_the_page_loads_nothing(page: Page) -> None:
    assert not {"script", "link", "iframe", "img"} & {*page.tags}
    loaded = [value for name, value in page.attributes if name in ("src", "href", "xlink:href")]
    assert loaded
    assert all(value.startswith(("#", "data:image/png;base64,")) for value in loaded)


def test_plots_take_the_colour_of_the_text_and_share_no_id(page: Page) -> None:
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    referred = {v[1:] for n, v in page.attributes if n == "xlink:href" and v.startswith("#")}
    assert referred <= set(ids)
    styles = [value for name, value in page.attributes if name == "style"]
    assert any("currentColor" in style for style in styles)
    assert not any("#010203" in style or "#000000" in style for style in styles)


def test_the_same_report_gives_the_same_files(
    report: Report, written: Path, tmp_path: Path
) -> None:
    write_report(tmp_path, report)
    for path in written.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def failing_page(_: Report) -> str:
    raise RuntimeError("no font")


@pytest.fixture
def old(tmp_path: Path) -> Iterator[Path]:
    """A folder with an old report, which must still be there in the end."""
    for name in ("report.html", "report.json"):
        (tmp_path / name).write_text(f"old {name}")
    yield tmp_path
    for name in ("report.html", "report.json"):
        assert (tmp_path / name).read_text() == f"old {name}"


def test_a_plot_that_fails_leaves_the_old_report(
    old: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.report.page", failing_page)
    with pytest.raises(RuntimeError, match="no font"):
        write_report(old, report)


def test_a_disk_that_fails_leaves_the_old_report(
    old: Path, report: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.report.page", lambda _: "new")
    (old / ".report.html.tmp").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write_report(old, report)


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    labelled = turns([[0], [0]])
    write_report(tmp_path, Report(meta=META, predictors={"heads": evaluate(predict(labelled))}))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.headings[-1] == "NPCs and languages"
    assert "majority" not in page.text


def test_the_console_shows_the_tables(report: Report) -> None:
    out = StringIO()
    print_report(report, Console(file=out, width=300))
    rows = [" ".join(each.split()) for each in out.getvalue().splitlines()]
    assert "turns 60 60 -" in rows
    assert any(row.startswith("flag macro-F1 0.") and row.endswith(" 0.123") for row in rows)
    assert any(row.startswith("... falling 0.") and row.endswith(" -") for row in rows)
    assert any(row.startswith("... rising 0.") and row.endswith(" 0.875") for row in rows)
    for group in ("all", "mina", "ko"):
        assert f"{group} 10 2.000 7.39 3.000 20.09" in rows
    assert any(row.startswith("Generated lines") for row in rows)


def test_the_console_takes_names_as_they_are() -> None:
    out = StringIO()
    found = evaluate(noisy(4, npc_id=["[b]mina[/b]"] * 4))
    print_report(Report(meta=META, predictors={"[red]x": found}), Console(file=out, width=300))
    rows = [each.split() for each in out.getvalue().splitlines()]
    assert rows.count(["[red]x"]) == 1 + 3, "the heading of a column, then of three tables"
    assert any(row[:2] == ["[b]mina[/b]", "4"] for row in rows)
