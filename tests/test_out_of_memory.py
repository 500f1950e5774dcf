"""A limit on the address space is the one shortage of memory that a CPU reports instead of ending the process.

Most of what this training takes grows with the images that it computes at a time, and the limit is far from what any
number of them takes: near it, native code that asks for a little more may get none, and few libraries survive that.
"""

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
from mlflow_resnet.runs.preparation import prepare_training

def kib(name):
    line, = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

folder, batch_size, limit_kib = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
sizes = {"epochs": 1, "crop_size": 192, "resize_size": 192, "precision": "fp32", "num_workers": 1}
options = TrainOptions(
    train_dir=f"{folder}/train", val_dir=f"{folder}/val", **TINY | sizes | {"batch_size": batch_size}
)
training = prepare_training(options)
before = kib("VmSize")
resource.setrlimit(resource.RLIMIT_AS, ((before + limit_kib) * 1024,) * 2)
epochs = list(training.epochs(options))
print("needed", kib("VmPeak") - before)
"""

PLENTY = 64 * 2**20  # KiB


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_computed_in_parts(tmp_path):
    write_class_folders(tmp_path / "train", 22)
    write_class_folders(tmp_path / "val", 2)
    whole, half = (int(run(tmp_path, batch_size).stdout.split()[-1]) for batch_size in (64, 32))
    limited = run(tmp_path, 64, (whole + half) // 2)
    assert limited.returncode == 0, limited.stderr
    assert "out of memory: batches of 64 are now computed in 2 parts of 32 images" in limited.stderr


def run(folder: Path, batch_size: int, limit_kib: int = PLENTY) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", SCRIPT, str(folder), str(batch_size), str(limit_kib)]
    here = Path(__file__).parent
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=here,
        env=os.environ | {"PYTHONPATH": f"{here}:{ROOT}", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
