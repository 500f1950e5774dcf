"""`mlflow run`, as a user types it."""

import os
import shutil
import subprocess
import sys

import mlflow
import pytest
from helpers import ROOT, TINY

PROJECT = ["MLproject", "conda.yaml", "mlflow_resnet"]


def mlflow_run(*args, cwd):
    command = [sys.executable, "-m", "mlflow", "run", *map(str, args), "--env-manager", "local"]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def parameters(values):
    return [text for name, value in values.items() for text in ("-P", f"{name}={value}")]


@pytest.fixture
def elsewhere(workdir):
    """A working directory with a space in its name; its database is MLflow's default, ./mlflow.db."""
    folder = workdir / "some where"
    folder.mkdir()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    return folder


@pytest.fixture(scope="session")
def trained_model(trained):
    """A folder, found before a test has a tracking database of its own."""
    return mlflow.artifacts.download_artifacts(trained.model_uri)


def only_run():
    (run,) = mlflow.search_runs(output_format="list")
    return run


def test_main_trains_from_another_directory_with_a_relative_path(elsewhere, images):
    shutil.copytree(images / "train", elsewhere / "my images")
    values = TINY | {"epochs": 1, "train_dir": "my images", "registered_model_name": "m", "alias": "champion"}
    result = mlflow_run(ROOT, *parameters(values), "--run-name", "by hand", cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    run = only_run()
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "by hand"
    assert run.data.params["learning_rate"] == "0.003"
    assert run.data.params["torch_threads"].isdigit()
    assert run.data.metrics["val_top1_accuracy"] > 0
    assert mlflow.MlflowClient().get_model_version_by_alias("m", "champion").run_id == run.info.run_id


@pytest.mark.slow
def test_from_a_git_url(elsewhere, images):
    repository = elsewhere / "repo"
    repository.mkdir()
    for name in PROJECT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, repository / name)
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(repository)]
    for command in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
        subprocess.run(git + command, check=True)
    values = {"image_dir": str(images / "train"), "train_dir": elsewhere / "a", "val_dir": elsewhere / "b"}
    uri = "file://" + str(repository).replace(" ", "%20")
    result = mlflow_run(uri, "--version", "main", "-e", "split", *parameters(values), cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in (elsewhere / "a").iterdir()) == ["007", "blue sky", "grün"]


@pytest.mark.slow
def test_a_failed_run_is_failed_and_says_why(elsewhere, images):
    result = mlflow_run(ROOT, *parameters({"train_dir": images / "train", "epochs": 0}), cwd=elsewhere)
    assert result.returncode != 0
    assert "mlflow-resnet: epochs is 0; it must be at least 1" in result.stderr
    assert only_run().info.status == "FAILED"


@pytest.mark.slow
def test_a_misspelled_parameter_is_one_clear_line(elsewhere, images):
    result = mlflow_run(ROOT, *parameters({"train_dir": images / "train", "learning_rat": 0.1}), cwd=elsewhere)
    assert result.returncode != 0
    line = "mlflow-resnet: train has no option --learning-rat; did you mean --learning-rate?"
    assert line in result.stderr.splitlines()
    assert only_run().info.status == "FAILED"


@pytest.mark.slow
@pytest.mark.thorough
def test_main_trains_in_two_processes(elsewhere, images):
    values = TINY | {"epochs": 1, "train_dir": images / "train", "processes": 2}
    result = mlflow_run(ROOT, *parameters(values), cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    run = only_run()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["val_top1_accuracy"] > 0
    assert "to each of 2 processes" in result.stderr


@pytest.mark.slow
def test_score_and_evaluate_are_entry_points(trained_model, elsewhere, images):
    shutil.copytree(trained_model, elsewhere / "model")
    values = {"model_uri": elsewhere / "model", "image_dir": images / "val"}
    result = mlflow_run(ROOT, "-e", "score", *parameters(values | {"output": elsewhere / "s.csv"}), cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    assert len((elsewhere / "s.csv").read_text().splitlines()) == 13
    result = mlflow_run(ROOT, "-e", "evaluate", *parameters(values), cwd=elsewhere)
    assert result.returncode == 0, result.stderr
