import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from helpers import ROOT


@pytest.mark.slow
def test_the_demo_runs_twice_and_reaches_97_percent(tmp_path):
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "demo", "--env-manager", "local"]
    command += ["-P", f"output_dir={folder / 'digits demo'}"]
    for version in (1, 2):
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr
        assert float(re.search(r"validation top-1 accuracy (\S+)", result.stdout)[1]) >= 0.97
        assert f"models:/digits/{version}, alias champion" in result.stdout
    scored = pd.read_csv(folder / "digits demo" / "scored.csv", dtype={"Scored Labels": str})
    truth = scored["image"].str.extract(r"/val/(\d)/")[0]
    assert len(scored) == 360
    assert (scored["Scored Labels"] == truth).mean() >= 0.97
    for command in ("mlflow ui", "mlflow models serve", "curl", "mlflow-resnet train"):
        assert command in result.stdout
