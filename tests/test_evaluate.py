import mlflow
import numpy as np
import pytest
from helpers import run_main, write_picture
from mlflow import MlflowClient
from rounding import about, assert_same_probabilities, of_auto
from sklearn import metrics as sklearn_metrics

from mlflow_resnet.errors import BadImagesError, ClassMismatchError, InvalidModelError
from mlflow_resnet.evaluation import metrics
from mlflow_resnet.evaluation.figures import confusion_matrix_figure
from mlflow_resnet.options import EvaluateOptions
from mlflow_resnet.verbs.evaluate import evaluate

pytestmark = pytest.mark.networks

TARGETS = np.array([0, 0, 1, 2])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.2, 0.2, 0.6]], dtype=np.float32)


def test_metrics_of_a_hand_worked_example():
    values = metrics.headline_metrics(TARGETS, PROBABILITIES) | metrics.average_metrics(TARGETS, PROBABILITIES)
    assert values["top1_accuracy"] == 0.75
    assert values["log_loss"] == pytest.approx(-np.mean(np.log([0.7, 0.3, 0.8, 0.6])), rel=1e-6)
    assert values["micro_precision"] == values["micro_recall"] == values["micro_f1"] == 0.75
    assert values["macro_precision"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    assert values["macro_recall"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert values["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert "top5_accuracy" not in values


def test_metrics_equal_scikit_learns_on_many_classes():
    random = np.random.default_rng(1)
    targets = random.integers(0, 20, 500)
    probabilities = random.dirichlet(np.ones(20), 500).astype(np.float32)
    values = metrics.headline_metrics(targets, probabilities)
    top5 = np.mean([target in row.argsort()[-5:] for target, row in zip(targets, probabilities, strict=True)])
    assert values["top5_accuracy"] == pytest.approx(top5)
    assert values["log_loss"] == pytest.approx(-np.log(probabilities[np.arange(500), targets]).mean(), rel=1e-5)
    assert values["top1_accuracy"] == sklearn_metrics.accuracy_score(targets, probabilities.argmax(1))


def test_the_per_class_table_has_classes_without_images_too():
    table = metrics.per_class_table(np.array([0, 0]), PROBABILITIES[:2], ("a", "b", "c")).set_index("class")
    assert table["support"].to_dict() == {"a": 2, "b": 0, "c": 0}
    assert table.loc["a", "recall"] == 0.5


def test_each_class_has_metrics_that_mlflow_takes_unless_they_are_too_many():
    def names(*classes):
        random = np.random.default_rng(1).dirichlet(np.ones(len(classes)), len(classes))
        return list(metrics.list_class_metrics(metrics.per_class_table(np.arange(len(classes)), random, classes)))

    expected = ["precision_cat", "precision_Bär _1_", "recall_cat", "recall_Bär _1_"]
    assert names("cat", "Bär (1)") == expected
    assert names("a?", "a!") == []
    assert len(names(*map(str, range(20)))) == 40
    assert names(*map(str, range(21))) == []


@pytest.mark.parametrize("number_of_classes", [2, 10, 200])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(number_of_classes, tmp_path):
    counts = np.eye(number_of_classes, dtype=int) * 5
    figure = confusion_matrix_figure(counts, [f"class {i}" for i in range(number_of_classes)])
    figure.savefig(tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 5000
    assert len(figure.axes[0].texts) == (number_of_classes if number_of_classes <= 30 else 0)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [f"class {i}" for i in range(number_of_classes)]


def test_evaluate_prints_and_logs_the_designers_metrics(trained, images):
    result = run_main("evaluate", "--model-uri", "models:/colors@champion", "--image-dir", images / "val")
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["overall", "accuracy", "(top1_accuracy)", "1.0000", "[0.7575,", "1.0000]"] in lines
    assert ["macro_recall", "1.0000"] in lines
    assert ["007", "1.0000", "1.0000", "1.0000", "1.0000", "4"] in lines
    run = mlflow.last_active_run()
    assert run.data.params["model_uri"] == "models:/colors@champion"
    assert run.data.metrics["macro_precision"] == 1.0
    assert {"evaluation/confusion_matrix.png", "evaluation/per_class.json"} <= {
        a.path for a in MlflowClient().list_artifacts(run.info.run_id, "evaluation")
    }
    model = mlflow.get_logged_model(trained.model_uri.removeprefix("models:/"))
    assert ("top1_accuracy", "val") in {(metric.key, metric.dataset_name) for metric in model.metrics}


def test_evaluate_gives_the_accuracy_that_training_gave(trained, images):
    how = {"batch_size": 5, "precision": "fp32"}
    evaluation = evaluate(EvaluateOptions(model_uri=trained.model_uri, image_dir=str(images / "val"), **how))
    assert evaluation.metrics["log_loss"] == about(trained.metrics["val_loss"])


def test_evaluate_measures_what_the_test_time_options_give(trained, images):
    folder = images / "val"
    how = {"tta": "flip", "resolution": 48}
    evaluation = evaluate(EvaluateOptions(model_uri=trained.model_uri, image_dir=str(folder), **how))
    predicted = mlflow.pyfunc.load_model(trained.model_uri).predict(str(folder), params=how)
    columns = [name for name in predicted.columns if name.startswith("Scored Probabilities_")]
    assert_same_probabilities(evaluation.probabilities, predicted[columns], of_auto())
    assert mlflow.last_active_run().data.params.items() >= {"tta": "flip", "resolution": "48"}.items()


def test_evaluate_on_bad_images_stops_or_leaves_them_out(trained, tmp_path):
    for i in range(3):
        write_picture(tmp_path / "007" / f"{i}.png", (200, 60, 40), i)
    (tmp_path / "007" / "bad.png").write_bytes(b"no picture")
    options = {"model_uri": trained.model_uri, "image_dir": str(tmp_path)}
    with pytest.raises(BadImagesError, match=r"1 unreadable image: 007/bad.png \(not an image"):
        evaluate(EvaluateOptions(**options))
    assert len(evaluate(EvaluateOptions(**options, on_bad_image="skip")).targets) == 3


def test_evaluate_on_unknown_classes_names_them(trained, tmp_path):
    write_picture(tmp_path / "owl" / "1.png", (0, 0, 0), 1)
    with pytest.raises(ClassMismatchError, match="class folders 'owl' are unknown to the model"):
        evaluate(EvaluateOptions(model_uri=trained.model_uri, image_dir=str(tmp_path)))


def test_evaluate_an_unknown_model(tracking, images):
    with pytest.raises(InvalidModelError, match="models:/nothing/1: not in the registry"):
        evaluate(EvaluateOptions(model_uri="models:/nothing/1", image_dir=str(images / "val")))
