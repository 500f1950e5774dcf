import json
import re
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from helpers import ROOT, free_port, server


@pytest.mark.slow
def test_the_demo_runs_twice_and_reaches_97_percent(tmp_path, monkeypatch):
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    command = [sys.executable, "-m", "mlflow", "run", str(ROOT), "-e", "demo", "--env-manager", "local"]
    command += ["-P", f"output_dir={folder / 'digits demo'}"]
    for version in (1, 2):
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr
        assert float(re.search(r"validation top-1 accuracy (\S+)", result.stdout)[1]) >= 0.97
        assert f"models:/digits/{version}, alias champion" in result.stdout
    scored = pd.read_csv(folder / "digits demo" / "scored.csv", dtype={"Scored Labels": str})
    truth = scored["image"].str.extract(r"/val/(\d)/")[0]
    assert len(scored) == 360
    assert (scored["Scored Labels"] == truth).mean() >= 0.97
    lines = [line.strip() for line in result.stdout.partition("Next:\n")[2].splitlines()]
    _, serve, ask, _ = (line for line in lines if not line.startswith("#"))
    port = free_port()
    command = [sys.executable, "-m", "mlflow_resnet", *shlex.split(serve)[1:], "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/ping", folder):
        asked = shlex.split(ask.replace(":5001/", f":{port}/"))
        done = subprocess.run(asked, cwd=folder, capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    assert (row["Scored Labels"] in set("0123456789"), row["error"]) == (True, "")
