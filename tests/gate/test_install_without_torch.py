"""The gate and the client where torch is not installed."""

import subprocess
from configparser import ConfigParser

import pytest
from environments import make_environment
from gate_server import RULES, gate_server
from helpers import ROOT

GATE = ROOT / "distributions" / "gate"
STORES = "mlflow.model_registry_store"


def read_setup(path):
    setup = ConfigParser()
    setup.read(path / "setup.cfg")
    return setup


def test_the_gate_alone_is_the_gate_of_the_package():
    whole, gate = read_setup(ROOT), read_setup(GATE)
    assert gate["options.entry_points"][STORES].split() == whole["options.entry_points"][STORES].split()
    assert gate["options"]["python_requires"] == whole["options"]["python_requires"]
    required = whole["options"]["install_requires"] + whole["options.extras_require"]["gate"]
    assert set(gate["options"]["install_requires"].split()) <= set(required.split())


@pytest.mark.slow
def test_an_operator_installs_the_gate_and_a_caller_the_client_without_torch(served, images, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONPATH", raising=False)
    python = make_environment(tmp_path / "venv", read_setup(GATE)["options"]["install_requires"].split())
    done = subprocess.run([python, "-m", "pip", "install", "--quiet", GATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    missing = subprocess.run([python, "-c", "import torch"], cwd=tmp_path, capture_output=True)
    assert missing.returncode != 0, "torch must not be installed there"

    with gate_server(tmp_path, RULES, workers=1, python=str(python)) as gate:
        version = gate.register("colors")
        refused = gate.move(version)
        gate.measure(version)
        moved = gate.move(version)
    assert (refused.status, moved.status) == (403, 200), refused

    picture = str(next((images / "val" / "007").glob("*.jpg")))
    code = "import sys; from mlflow_resnet.client import score_images; "
    code += "print(score_images(sys.argv[1], sys.argv[2:])['Scored Labels'][0])"
    done = subprocess.run([python, "-c", code, served, picture], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.strip() == "007", done.stderr
