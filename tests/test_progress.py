"""How a run shows that it moves: a bar for people, lines for logs."""

import sys

import pytest

from stkd_utils.progress import Progress, mode

ROW = {"epoch": 3, "loss_hard": 0.5, "loss_soft": 0.25, "val_accuracy": 0.9}


@pytest.fixture(autouse=True)
def nobody_watches(monkeypatch):
    monkeypatch.delenv("STKD_PROGRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)


def test_lines_in_a_log_and_a_bar_in_a_terminal_or_a_notebook(monkeypatch):
    assert mode() == "lines"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert mode() == "bar"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert mode() == "bar"


def test_what_is_asked_for_comes_before_the_variable_and_the_variable_before_the_guess(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setenv("STKD_PROGRESS", "lines")
    assert mode() == "lines"
    assert mode("none") == "none"


def test_an_unknown_way_names_the_known(monkeypatch):
    monkeypatch.setenv("STKD_PROGRESS", "dots")
    with pytest.raises(ValueError, match="'bar', 'lines' or 'none'; got 'dots'"):
        mode()


def test_lines_are_plain_one_an_epoch(capsys):
    with Progress("digits seed 0", 4, "lines") as show:
        show(ROW)
    assert capsys.readouterr() == ("digits seed 0  epoch 3/4  loss 0.750  validation 90.0 %\n", "")


def test_a_detector_shows_its_average_precision(capsys):
    row = {"epoch": 1, "loss_box": 0.5, "val_loss": 7.0, "val_map50": 0.25}
    with Progress("scenes seed 0", 2, "lines") as show:
        show(row)
    assert capsys.readouterr().out == "scenes seed 0  epoch 1/2  loss 0.500  validation 25.0 %\n"


def test_a_bar_continues_where_a_run_was_cut_off_and_leaves_stdout_alone(capsys):
    with Progress("digits seed 0", 4, "bar") as show:
        show(ROW)
        assert (show._bar.n, show._bar.total) == (3, 4)
    shown = capsys.readouterr()
    assert shown.out == "" and "digits seed 0" in shown.err


def test_none_says_nothing(capsys):
    with Progress("digits seed 0", 4, "none") as show:
        show(ROW)
    assert capsys.readouterr() == ("", "")
