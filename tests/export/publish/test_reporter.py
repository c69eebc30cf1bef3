import io

from rich.console import Console

from export.reporter import RichReporter


def test_without_a_terminal_stages_are_plain_lines() -> None:
    output = io.StringIO()
    with RichReporter(Console(file=output)) as reporter:
        reporter.stage("hashing", 10)(5)
        reporter.say("as [hf] says")
        with reporter.aside():
            output.write("theirs\n")
    assert output.getvalue() == "hashing\nas [hf] says\ntheirs\n"


def test_on_a_terminal_a_stage_has_a_bar_that_goes_with_the_next() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with RichReporter(console) as reporter:
        reporter.stage("hashing", 1_000_000)(500_000)
        reporter.stage("uploading", 2_000_000)(2_000_000)
    assert "uploading" in output.getvalue()
    assert "100%" in output.getvalue()
    assert "hashing" not in output.getvalue().rpartition("uploading")[2]


def test_another_library_draws_with_no_bar_of_ours_in_between() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with RichReporter(console) as reporter:
        reporter.stage("hashing", 10)
        with reporter.aside():
            start = output.tell()
            console.file.write("theirs")
        assert output.getvalue()[start:].startswith("theirs")
        assert "hashing" not in output.getvalue()[start:]
        reporter.stage("verifying", 10)
    assert "verifying" in output.getvalue()[start:]
