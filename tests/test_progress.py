import fcntl
import os
import pty
import re
import struct
import termios
import time

from mlflow_resnet.scoring.to_file import scoring_progress as scoring
from mlflow_resnet.training.progress import TrainingProgress


def run_an_epoch(progress):
    progress.start_epoch(1, 4)
    for iteration in range(1, 5):
        progress.advance()
        if progress.is_due(iteration):
            progress.show(iteration, loss=1.25, speed=80.0)
    progress.end_epoch("val top-1 50.00%")


def test_a_terminal_shows_a_bar_with_loss_and_speed():
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with os.fdopen(writing, "w") as terminal:
        run_an_epoch(TrainingProgress(epochs=3, print_frequency=2, stream=terminal))
        shown = ""
        while "50.00%" not in shown:  # a terminal gives what it has, and that may be a part
            shown += os.read(reading, 100_000).decode()
    os.close(reading)
    assert "epoch 1/3:" in shown
    assert "loss 1.2500" in shown
    assert "80 images/s" in shown
    assert "epoch 1/3  val top-1 50.00%" in shown
    assert "iteration" not in shown


def test_a_log_gets_a_line_every_print_frequency_iterations(tmp_path):
    with open(tmp_path / "log", "w") as log:
        run_an_epoch(TrainingProgress(epochs=3, print_frequency=2, stream=log))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["iteration 2/4", "iteration 4/4", "val top-1 50.00%"]


def scored(items, monkeypatch, pause=0.0):
    """Scores 3 of as many images as there are items, each of which takes a moment."""
    monkeypatch.setattr(scoring, "SECONDS_BEFORE_COUNTING", 0.0)
    monkeypatch.setattr(scoring, "SECONDS_PER_LINE", 0.0)
    with scoring.ScoringProgress("scoring", "img", done=10, items=items) as progress:
        for rows in (1, 2):
            while items and not progress.total:
                time.sleep(0.001)
            time.sleep(pause)
            progress.advance(rows)


def test_a_log_of_scoring_says_how_long_it_will_take(monkeypatch, capsys):
    scored(range(33), monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [["scoring", "11/33 img"], ["scoring", "13/33 img"]]
    assert all(re.fullmatch(r".*  \d+ img/s  \d\d:\d\d left", line) for line in lines)


def test_while_the_images_are_not_counted_a_log_says_how_fast_it_is(monkeypatch, capsys):
    scored((), monkeypatch)
    lines = capsys.readouterr().err.splitlines()
    assert all(re.fullmatch(r"scoring  1[13] img  \d+ img/s", line) for line in lines), lines
    assert len(lines) == 2


def test_a_terminal_shows_how_long_scoring_will_take(monkeypatch):
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    with os.fdopen(writing, "w") as terminal:
        monkeypatch.setattr("sys.stderr", terminal)
        scored(range(33), monkeypatch, pause=0.2)  # a bar is not drawn more often than ten times a second
        shown = ""
        while "13/33" not in shown:
            shown += os.read(reading, 100_000).decode()
    os.close(reading)
    assert re.search(r"13/33 \[\d\d:\d\d<\d\d:\d\d, .*img/s\]", shown), shown
