"""The benchmarks call the product as it is."""

import re
import subprocess
import sys

import pytest
from helpers import ROOT, write_class_folders

TRAINED = """
import sys
from pathlib import Path
from ours import fit
from setting import Setting

images = Path(sys.argv[1])
trained = fit(Setting(images, images, crop_size=32, batch_size=8, epochs=1))
print(len(trained.epoch_seconds), trained.score(images))
"""


@pytest.mark.slow
def test_a_benchmark_trains_and_scores_ours(tmp_path):
    images = write_class_folders(tmp_path / "images", 8)
    command = [sys.executable, "-c", TRAINED, images]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    epochs, accuracy = done.stdout.split()
    assert int(epochs) == 1
    assert 0 <= float(accuracy) <= 1


@pytest.mark.slow
@pytest.mark.thorough
def test_the_gate_is_measured_beside_mlflows_own_store():
    command = [sys.executable, "gate.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for call in ("set alias", "set tag", "get version", "search"):
        assert f"| {call}" in done.stdout


@pytest.mark.slow
@pytest.mark.thorough
def test_serving_is_measured_beside_the_simplest_pyfunc():
    command = [sys.executable, "serving.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "| naive pyfunc, mlflow models serve" in done.stdout
    for protocol in ("", ", pictures", ", tensors"):
        line = rf"^ours, torch \w+, mlflow-resnet serve{protocol}, 32 clients: 100 answers and 0 errors"
        assert re.search(line, done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_the_start_of_commands_is_measured_beside_an_empty_program():
    command = [sys.executable, "startup.py", "--quick"]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for start in ("python -c pass", "import mlflow_resnet", "mlflow-resnet train --help", "gate store"):
        assert f"| {start}" in done.stdout


@pytest.mark.slow
@pytest.mark.thorough
def test_models_of_every_epoch_are_counted_on_a_real_server(tmp_path):
    command = [sys.executable, "epoch_models.py", "--quick", "--data-dir", tmp_path, "--peer", ROOT]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    now, other = (re.split(r" *\| *", line)[2:5] for line in done.stdout.splitlines() if line.startswith("| ours"))
    assert now == other, "requests, uploads and files of the same version"
    assert now[2] == "9 [9..9]"


@pytest.mark.slow
def test_what_is_measured_on_a_gpu_runs_on_a_cpu(tmp_path):
    command = [sys.executable, "gpu.py", "--quick", "--device", "cpu", "--data-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    for quantity in ("training step", "forward pass", "epochs", "scoring"):
        assert re.search(rf"^\| ours, {quantity} +\| [0-9]", done.stdout, re.MULTILINE), done.stdout + done.stderr
