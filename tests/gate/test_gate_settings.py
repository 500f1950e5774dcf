"""Servers of other kinds: with users, with workspaces, with a key, and with a policy that has mistakes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import requests
from gate_server import RULES, command, gate_server, proof, tag_of
from helpers import free_port

from mlflow_resnet.registry.evidence import sign_evidence

BY_ANOTHER = "- {models: colors, alias: champion, approval: {tag: approved, by_another_user: true}}\n"
SIGNED = "- {models: colors, alias: champion, signed: true}\n"


def start(folder, policy, **env):
    """A server that is to fail at its start."""
    (folder / "policy.yaml").write_text(policy)
    line = command(free_port(), f"sqlite:///{folder}/mlflow.db", "resnet-gate+", 1)
    env = {"MLFLOW_RESNET_GATE_POLICY": str(folder / "policy.yaml")} | env
    return subprocess.run(line, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_a_policy_with_mistakes_stops_the_server_with_all_of_them(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    done = start(tmp_path, "- {models: a, alias: b, sign: true}\n- {alias: b, signed: true}\n")
    assert done.returncode == 1
    for said in ("rule 1: 'sign' is not a field", "rule 2: models is missing", "the server has no key"):
        assert said in done.stderr
    assert "3 mistakes in the policy" in done.stderr


@pytest.mark.slow
def test_a_wrong_scheme_is_told_at_the_first_request_only():
    """MLflow's own behaviour, which docs/gate.md warns of."""
    from mlflow.tracking._model_registry.registry import ModelRegistryStoreRegistry
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    registry = ModelRegistryStoreRegistry()
    registry.register_entrypoints()
    with pytest.raises(UnsupportedModelRegistryStoreURIException):
        registry.get_store_builder("resnet-gates+sqlite:///x.db")


@pytest.mark.slow
def test_evidence_must_be_signed_with_the_servers_key(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with gate_server(tmp_path, SIGNED, workers=1, MLFLOW_RESNET_GATE_KEY="secret") as gate:
        version = gate.register("colors")
        for facts in (proof(version), sign_evidence(proof(version), "guessed")):
            gate.tag(version, *tag_of(facts))
            assert "signature is missing or was not made with the server's key" in gate.move(version).message
        forged = sign_evidence(proof(version), "secret").model_copy(update={"metrics": {"top1_accuracy": 1.0}})
        gate.tag(version, *tag_of(forged))
        assert gate.move(version).status == 403
        gate.tag(version, *tag_of(sign_evidence(proof(version), "secret")))
        assert gate.move(version).status == 200


@pytest.mark.slow
def test_who_approves_must_be_another_user_than_who_promotes(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    admin = ("admin", "a rather long word")
    (tmp_path / "auth.ini").write_text(
        f"[mlflow]\ndefault_permission = MANAGE\ndatabase_uri = sqlite:///{tmp_path}/auth.db\n"
        f"admin_username = {admin[0]}\nadmin_password = {admin[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    env = {"MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "auth.ini"), "MLFLOW_FLASK_SERVER_SECRET_KEY": "x"}
    with gate_server(tmp_path, BY_ANOTHER, workers=1, more=("--app-name", "basic-auth"), **env) as server:
        for name in ("ann", "ben"):
            body = {"username": name, "password": "correct horse"}
            requests.post(f"{server.url}/api/2.0/mlflow/users/create", json=body, auth=admin).raise_for_status()
        ann, ben = (replace(server, auth=(name, "correct horse")) for name in ("ann", "ben"))
        version = ann.register("colors")
        ann.measure(version)
        ann.tag(version, "approved", "true")
        assert ann.tags(version)["approved.by"] == "ann"
        assert "set by ann, who also moves the alias" in ann.move(version).message
        answer = ann.send("POST", "model-versions/set-tag", **version.key, key="approved.by", value="ben")
        assert answer.status == 403
        ben.tag(version, "approved", "true")
        assert ann.move(version).status == 200
        (entry,) = ann.history("colors")
        assert entry.who == "ann"


@pytest.mark.slow
def test_workspaces_have_aliases_and_histories_of_their_own(tmp_path, empty_database):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    with gate_server(tmp_path, RULES, workers=1, more=("--enable-workspaces",)) as gate:
        made = requests.post(f"{gate.url}/api/3.0/mlflow/workspaces", json={"name": "other"}, timeout=60)
        assert made.status_code in (200, 201), made.text
        first = gate.promoted("colors")
        for path, body in (
            ("registered-models/create", {"name": "colors"}),
            ("model-versions/create", {"name": "colors", "source": "s3://bucket/x"}),
        ):
            answer = gate.send("POST", path, workspace="other", **body)
            assert answer.status == 200, answer
        moved = gate.send("POST", "registered-models/alias", workspace="other", **first.key, alias="champion")
        assert moved.status == 403
        assert "it is made from s3://bucket/x" in moved.message
        assert gate.champion("colors") == 1
        assert len(gate.history("colors")) == 1


STARTS = """
import sys, time
from mlflow_resnet.registry.gate.plugin import build
build("resnet-gate+sqlite:///mlflow.db", "sqlite:///mlflow.db")
assert "torch" not in sys.modules
"""


@pytest.mark.slow
def test_the_store_is_built_without_torch(tmp_path, empty_database, monkeypatch):
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "policy.yaml").write_text(RULES)
    monkeypatch.setenv("MLFLOW_RESNET_GATE_POLICY", "policy.yaml")
    done = subprocess.run([sys.executable, "-c", STARTS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
