"""The published plugins of Azure ML and SageMaker beside this package, as pip installs them: a training reaches its
registry through their own stores."""

import base64
import datetime
import ipaddress
import json
import os
import shutil
import subprocess
import time

import pandas as pd
import pytest
from environments import make_environment
from helpers import ROOT, TINY, flags, mlflow_server
from mlflow import MlflowClient

from doors.azureml_proxy import WORKSPACE, azure_server

pytestmark = pytest.mark.slow
PLUGINS = ("azureml-mlflow", "sagemaker-mlflow")
ARN = "arn:aws:sagemaker:us-east-1:123456789012:mlflow-tracking-server/flowers"
OURS = ("setup.cfg", "pyproject.toml", "README.md")


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment in which pip installed this package and the plugins, with one command."""
    root = tmp_path_factory.mktemp("plugins")
    source = shutil.copytree(ROOT / "mlflow_resnet", root / "source" / "mlflow_resnet").parent
    for name in OURS:
        shutil.copy(ROOT / name, source)
    python = make_environment(root / "venv", ["torch", "torchvision"])
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source, *PLUGINS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture
def call(python, tmp_path):
    """Calls our command line, or `-c CODE`, in that environment, and returns what it printed."""

    def run(*words, **variables):
        module = () if words[0] == "-c" else ("-m", "mlflow_resnet")
        names = {"PYTHONPATH", "MLFLOW_TRACKING_URI"}
        environment = {name: value for name, value in os.environ.items() if name not in names} | variables
        command = [str(python), *module, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return run


def platform_server(folder, artifacts):
    """A real server whose clients write to `artifacts` themselves, as those of Azure ML and SageMaker do."""
    return mlflow_server(folder, "--no-serve-artifacts", "--default-artifact-root", artifacts)


def train_options(images):
    options = {"train_dir": images / "train", "val_dir": images / "val", "registered_model_name": "flowers"}
    return flags(TINY | options | {"alias": "champion"})


def write_certificate(path):
    """A key and a certificate that it has signed for this machine, in one file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    places = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    certificate = certificate.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    certificate = certificate.add_extension(x509.SubjectAlternativeName(places), critical=False)
    certificate = certificate.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(private + certificate.sign(key, hashes.SHA256()).public_bytes(pem))
    return path


def make_token():
    """One as a job on Azure ML gets it, for a day."""
    parts = ({"alg": "none"}, {"exp": int(time.time()) + 86400})
    return ".".join(
        [*(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts), "eA"]
    )


def test_pip_takes_no_old_plugin(call):
    code = "from importlib.metadata import version as v; import json; print(json.dumps([v(n) for n in NAMES]))"
    names = (*PLUGINS, "mlflow", "mlflow-skinny")
    azure, sagemaker, mlflow, skinny = json.loads(call("-c", code.replace("NAMES", repr(names))))
    assert [int(part) for part in azure.split(".")[:2]] >= [1, 62]
    assert [int(part) for part in sagemaker.split(".")[:2]] >= [0, 5]
    assert mlflow == skinny
    assert [int(part) for part in mlflow.split(".")[:2]] >= [3, 1]


def test_a_job_on_azure_ml_trains_registers_and_scores(call, images, tmp_path):
    certificate, output = write_certificate(tmp_path / "azure.pem"), tmp_path / "scored.parquet"
    with (
        platform_server(tmp_path / "upstream", str(tmp_path / "blobs")) as direct,
        azure_server(direct, certificate) as azure,
    ):
        client = MlflowClient(direct, direct)
        run = client.create_run("0")
        job = {
            "MLFLOW_TRACKING_URI": f"azureml://localhost:{azure.server_port}{WORKSPACE}",
            "MLFLOW_TRACKING_TOKEN": make_token(),
            "MLFLOW_RUN_ID": run.info.run_id,
            "MLFLOW_EXPERIMENT_ID": "0",
            "REQUESTS_CA_BUNDLE": str(certificate),
        }
        said = call("train", *train_options(images), **job)
        assert said.count("has no logged models, data sets of runs, aliases, so these are left out") == 1
        (version,) = client.search_model_versions("name = 'flowers'")
        assert version.run_id == run.info.run_id
        assert client.get_run(run.info.run_id).info.status == "FINISHED"
        assert client.get_run(run.info.run_id).data.metrics["val_top1_accuracy"] > 0
        words = ("--model-uri", "models:/flowers/1", "--image-dir", images / "val")
        call("score", *words, "--output", output, **job)
        call("evaluate", *words, **job)
    assert len(pd.read_parquet(output)) == 12


def test_sagemakers_server_takes_everything(call, images, s3, prefix, tmp_path):
    with platform_server(tmp_path / "upstream", f"s3://bucket/{prefix}") as direct:
        place = {"MLFLOW_TRACKING_URI": ARN, "SAGEMAKER_MLFLOW_CUSTOM_ENDPOINT": direct}
        call("train", *train_options(images), **place)
        client = MlflowClient(direct, direct)
        version = client.get_model_version_by_alias("flowers", "champion")
        assert client.get_logged_model(version.model_id or version.source.removeprefix("models:/")).status == "READY"
        words = ("--model-uri", "models:/flowers@champion", "--image-dir", images / "val")
        call("score", *words, "--output", "scored.parquet", **place)
        call("promote", "--model-uri", "models:/flowers/1", "--image-dir", images / "val", **place)
    assert len(pd.read_parquet(tmp_path / "scored.parquet")) == 12
