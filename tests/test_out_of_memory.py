"""A limit on the address space is the one shortage of memory that a CPU reports instead of ending the process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, write_class_folders

SCRIPT = """
import resource, sys
from pathlib import Path
from helpers import TINY
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.preparation import prepared

def kib(name):
    line, = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

folder, limit_kib = sys.argv[1], int(sys.argv[2])
sizes = {"epochs": 1, "batch_size": 64, "crop_size": 160, "resize_size": 160, "precision": "fp32", "num_workers": 1}
options = TrainOptions(train_dir=folder, val_dir=folder, **TINY | sizes)
training = prepared(options)
before = kib("VmSize")
if limit_kib:
    resource.setrlimit(resource.RLIMIT_AS, ((before + limit_kib) * 1024,) * 2)
epochs = list(training.epochs(options))
print("needed", kib("VmPeak") - before)
"""


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path):
    folder = write_class_folders(tmp_path / "images", 30)
    needed = int(run(folder, 0).stdout.split()[-1])
    for percent in range(90, 45, -5):  # how much of it is mapped but not used differs between machines
        limited = run(folder, needed * percent // 100)
        if "out of memory" in limited.stderr:
            break
    assert "out of memory: batches of 64 are now computed in 2 parts of 32 images" in limited.stderr
    assert limited.returncode == 0, limited.stderr


def run(folder: Path, limit_kib: int) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(limit_kib)]
    here = Path(__file__).parent
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=here,
        env=os.environ | {"PYTHONPATH": f"{here}:{ROOT}"},
        timeout=300,
    )
