"""The benchmarks call the product as it is."""

import subprocess
import sys

import pytest
from helpers import ROOT


@pytest.mark.slow
def test_a_quick_benchmark_trains_ours(tmp_path):
    script = ROOT / "benchmarks" / "accuracy.py"
    command = [sys.executable, script, "--quick", "--repetitions", "1", "--data-set", "digits", "--data-dir", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "failed" not in "".join(line for line in (done.stdout + done.stderr).splitlines() if "ours" in line)
    assert "| ours |" in done.stdout.replace("  ", "")
