import fcntl
import os
import pty
import struct
import termios

from mlflow_resnet.training.progress import Progress


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
        run_an_epoch(Progress(epochs=3, print_frequency=2, stream=terminal))
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
        run_an_epoch(Progress(epochs=3, print_frequency=2, stream=log))
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["iteration 2/4", "iteration 4/4", "val top-1 50.00%"]
