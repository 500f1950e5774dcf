import mlflow
import pandas as pd
import pytest
from helpers import run_main, write_class_folders
from scipy.stats import binom

import mlflow_resnet
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.pairing import Pairing, compare_predictions
from mlflow_resnet.options import CompareOptions, EvaluateOptions

LABEL = "Scored Labels"


def table(labels: str, truth: str = "aaaabbbb") -> pd.DataFrame:
    """Predictions, one letter per image."""
    return pd.DataFrame({"image": [f"{i}.png" for i in range(len(truth))], "label": list(truth), LABEL: list(labels)})


def test_pairs_are_counted_whatever_the_order_of_the_rows():
    first, second = table("aaaabbba"), table("abbbbbbb")
    pairing = compare_predictions(first, second.sample(frac=1, random_state=1))
    assert pairing == Pairing(both=4, only_first=3, only_second=1, neither=0)
    assert pairing.difference == -2 / 8
    assert pairing.p_value == pytest.approx(2 * binom.cdf(1, 4, 0.5))


def test_models_that_are_always_right_together_do_not_differ():
    assert compare_predictions(table("aaaabbba"), table("aaaabbba")).p_value == 1


@pytest.mark.parametrize("other", [table("aaaabbb", "aaaabbb"), table("aaaabbbb", "aaaabbba")])
def test_other_images_or_other_classes_cannot_be_paired(other):
    with pytest.raises(ValueError, match="images are the same"):
        compare_predictions(table("aaaabbbb"), other)


@pytest.fixture(scope="module")
def evaluated(trained, images):
    """Ids of runs that evaluated a trained model and a random one on the same images."""
    random = mlflow_resnet.new_classifier("resnet18", trained.classifier.classes, trained.classifier.preprocessing)
    with mlflow.start_run():
        uris = trained.model_uri, mlflow_resnet.log_model(random).model_uri
    return [evaluate(uri, images / "val") for uri in uris]


def evaluate(model_uri: str, folder) -> str:
    with mlflow.start_run() as run:
        mlflow_resnet.evaluate(EvaluateOptions(model_uri=model_uri, image_dir=str(folder)))
    return run.info.run_id


def test_runs_are_compared_on_the_images_that_both_predicted(evaluated):
    good, random = evaluated
    result = mlflow_resnet.compare(CompareOptions(runs=(random, good)))
    assert (result.context, result.images) == ("evaluation", 12)
    assert result.table["run"].tolist() == [random, good]
    accuracies = result.table["top1_accuracy"].tolist()
    assert accuracies[1] == 1
    (pairing,) = result.pairings
    assert pairing.difference == pytest.approx(1 - accuracies[0])
    assert (pairing.only_first, pairing.neither) == (0, 0)
    done = run_main("compare", random, good)
    assert done.returncode == 0, done.stderr
    assert f"only the former {pairing.only_second}, only the latter 0" in done.stdout
    assert "hardly luck" in done.stdout
    assert "hardly luck, and worse" in run_main("compare", good, random).stdout


def test_what_cannot_be_compared_is_one_line(trained, evaluated, tmp_path):
    elsewhere = evaluate(trained.model_uri, write_class_folders(tmp_path, 2, first_seed=7))
    cases = {
        ("nothing", evaluated[0]): "run nothing is not on the tracking server",
        (evaluated[0], elsewhere): "the evaluation images of the runs are not the same (digests ",
        (evaluated[0], trained.run_id): "the runs have no kind of images in common",
        (evaluated[0], evaluated[1], "--on", "test"): "has no test images; choose others with --on",
    }
    for arguments, problem in cases.items():
        done = run_main("compare", *arguments)
        assert done.returncode == 2
        (line,) = [each for each in done.stderr.splitlines() if each.startswith("mlflow-resnet:")]
        assert problem in line
    with pytest.raises(InvalidOptionsError, match="give two or more"):
        mlflow_resnet.compare(CompareOptions(runs=(evaluated[0],)))


def test_a_run_whose_predictions_are_gone_is_told(evaluated, trained, images):
    with mlflow.start_run() as run:
        mlflow.log_input(mlflow.data.from_image_directory(str(images / "val"), "val"), "evaluation")
    with pytest.raises(InvalidOptionsError, match="has no evaluation/predictions.parquet; evaluate its model again"):
        mlflow_resnet.compare(CompareOptions(runs=(evaluated[0], run.info.run_id)))
