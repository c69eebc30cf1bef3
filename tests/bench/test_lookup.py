"""`persona bench lookup`: what drafting would save, by hand and on a tiny model."""

import json
from pathlib import Path

import pytest

from bench.lookup import count_echo
from server.cli import main


def test_a_reply_that_echoes_its_prompt_takes_fewer_steps() -> None:
    before, reply = [1, 2, 3, 4, 5, 6, 9, 1, 2], [3, 4, 5, 7]
    echo = count_echo([(before, reply)], num_match=2, num_draft=4)
    # after 1 2 the draft is 3 4 5 6: three kept and the 7 that the model says instead
    assert (echo.num_drafted, echo.num_plain, echo.num_tokens) == (1, 0, 4)
    assert echo.tokens_per_step == 4


def test_a_shorter_draft_keeps_less_and_new_words_take_a_step_each() -> None:
    before = [1, 2, 3, 4, 5, 6, 9, 1, 2]
    echo = count_echo([(before, [3, 4, 5, 7, 8])], num_match=2, num_draft=1)
    # 3 and 4 of one step; 5 and 7 of the next, drafted after 3 4; 8 alone
    assert (echo.num_drafted, echo.num_plain) == (2, 1)


def test_a_reply_may_echo_itself() -> None:
    echo = count_echo([([0], [1, 2, 3, 1, 2, 3, 1, 2, 3])], num_match=2, num_draft=8)
    assert echo.num_drafted == 1
    assert echo.num_plain == 5


def test_without_any_echo_nothing_is_saved() -> None:
    echo = count_echo([([1, 2, 3], [4, 5, 6])], num_match=2, num_draft=4)
    assert (echo.num_plain, echo.num_drafted, echo.tokens_per_step) == (3, 0, 1)
    assert echo.times_as_fast(3.0) == 1


def test_a_draft_must_pay_for_its_batch() -> None:
    echo = count_echo([([1, 2, 9, 1, 2], [3])], num_match=2, num_draft=1)
    assert (echo.num_drafted, echo.num_plain) == (1, 0)
    assert echo.times_as_fast(2.0) == 0.5


def test_every_figure_is_told(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    sizes = ["--match", "2", "--draft", "2", "4", "--threads", "1", "--runs", "1"]
    assert main(["bench", "lookup", *options, *sizes, "--json", str(report)]) == 0
    figures = json.loads(report.read_text())["figures"]
    assert [each["echo"]["num_draft"] for each in figures] == [2, 4]
    assert all(each["cost"] > 0 and each["tokens_per_step"] >= 1 for each in figures)
    assert "times as fast" in capsys.readouterr().out


def test_a_plot_that_it_would_not_draw_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "lookup", *options, "--plot", "a.png"])
    assert "--plot" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--match", "--draft", "--threads", "--runs"])
def test_bad_arguments_are_told(
    options: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "lookup", *options, option, "0"]) == 1
    assert f"{option} is 0; it must be from 1 to" in capsys.readouterr().err
