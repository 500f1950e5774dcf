"""What a person sees in MLflow's pages of three trained runs, in a real browser."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from browser import FEW_AND_MANY, Browser, browser, train_three, train_two_and_hundred_classes
from helpers import mlflow_server
from mlflow import MlflowClient
from mlflow.entities import Run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[tuple[Browser, MlflowClient, Path]]:
    folder = tmp_path_factory.mktemp("ui")
    with mlflow_server(folder) as url, browser(url) as shown:
        train_three(folder, url, per_class=80)
        yield shown, MlflowClient(url), folder


@pytest.fixture(scope="module")
def window(place) -> Browser:
    return place[0]


@pytest.fixture(scope="module")
def runs(place) -> list[Run]:
    """The oldest first."""
    return list(place[1].search_runs(["0"], order_by=["start_time"]))


@pytest.fixture
def tracking_kept() -> Iterator[None]:
    """The tracking URI that a test sets is that of the others no more when it has ended."""
    before = mlflow.get_tracking_uri()
    yield
    mlflow.set_tracking_uri(before)


def test_the_experiment_lists_runs_with_their_data(place, window, runs):
    shown = window.open("experiments/0/runs", "3 matching runs", f"resnet18 on {place[2].name}")
    digest = runs[0].inputs.dataset_inputs[0].dataset.digest
    assert f"train ({digest})" in shown


def test_the_charts_compare_the_runs(window):
    window.open("experiments/0/runs?compareRunsMode=CHART", "abstention/test_aurc", "calibration/")


def test_the_run_begins_with_its_card(window, runs):
    accuracy = runs[0].data.metrics["val_top1_accuracy"]
    title = f"resnet18, {accuracy:.2%} of 128 validation images right"
    shown = window.open(f"experiments/0/runs/{runs[0].info.run_id}", title, "val_top1_accuracy")
    assert "##" not in shown
    assert "|---" not in shown
    window.click("Show more")
    for heading in ("Confidence", "Data", "Weights and licence", "Limits", "Use", "Repeat"):
        window.wait_for(heading)


@pytest.mark.parametrize(
    "name",
    ["confusion_matrix", "confidence", "top_losses", "confident_mistakes", "unsure_hits", "top_losses_explained"],
)
def test_the_artifacts_show_pictures(name, window, runs):
    window.open(f"experiments/0/runs/{runs[0].info.run_id}/artifacts/validation/{name}.png", f"validation/{name}.png")
    window.wait_for_picture(smallest=400)


def test_the_artifacts_show_tables(window, runs):
    shown = window.open(f"experiments/0/runs/{runs[0].info.run_id}/artifacts/test/per_class.json", "precision", "auc")
    assert "recall" in shown


def test_the_version_has_the_card_and_the_numbers(window, runs):
    accuracy = runs[0].data.metrics["test_top1_accuracy"]
    shown = window.open("models/digits/versions/1", "validation images right", "champion", "test_top1_accuracy")
    assert f"{accuracy:.4f} [" in shown


def test_runs_are_compared_side_by_side(window, runs):
    ids = ",".join(f'"{run.info.run_id}"' for run in runs)
    shown = window.open(
        f'compare-runs?runs=[{ids}]&experiments=["0"]',
        "Comparing 3 Runs from 1 Experiment",
        "Parallel Coordinates Plot",
    )
    assert "learning_rate" in shown


def test_the_model_is_found_by_its_data_set(place, runs, tracking_kept):
    client = place[1]
    (test_set,) = [i.dataset for i in runs[0].inputs.dataset_inputs if i.tags[0].value == "test"]
    mlflow.set_tracking_uri(client.tracking_uri)
    found = client.search_logged_models(
        ["0"],
        filter_string="metrics.test_top1_accuracy > 0",
        datasets=[{"dataset_name": test_set.name, "dataset_digest": test_set.digest}],
    )
    assert len(found) == 3


@pytest.fixture(scope="module")
def few_and_many(place) -> list[Run]:
    """A run with 2 classes and one with 100, in an experiment of their own."""
    client = place[1]
    train_two_and_hundred_classes(place[2], client.tracking_uri)
    experiment = client.get_experiment_by_name(FEW_AND_MANY).experiment_id
    return list(client.search_runs([experiment], order_by=["start_time"]))


@pytest.mark.parametrize(("number", "count"), [(0, 2), (1, 100)], ids=["2 classes", "100 classes"])
def test_pages_are_right_with_few_and_many_classes(window, few_and_many, number, count):
    run = few_and_many[number]
    page = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}"
    accuracy = run.data.metrics["val_top1_accuracy"]
    window.open(page, f"resnet18, {accuracy:.2%} of")
    window.click("Show more")
    window.wait_for(f"{count} classes: ")
    for name in ("confusion_matrix", "top_losses"):
        path = f"validation/{name}.png"
        window.open(f"{page}/artifacts/{path}", path)
        window.wait_for_picture(smallest=400)
