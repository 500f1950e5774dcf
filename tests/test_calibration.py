"""Whether confidence can be believed, what abstaining wins, and how sure the numbers are."""

import json
import re
import shlex
import shutil
from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import COLORS, TINY, run_main, write_picture
from rounding import UNIT, about, assert_same_probabilities
from sklearn import metrics as sklearn_metrics

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation import calibration
from mlflow_resnet.evaluation.evaluation import Evaluation
from mlflow_resnet.evaluation.figures import confidence_figure
from mlflow_resnet.evaluation.metrics import confidence_intervals
from mlflow_resnet.evaluation.report import worth_a_look
from mlflow_resnet.model.prediction import PROBABILITY
from mlflow_resnet.options import EvaluateOptions, TrainOptions
from mlflow_resnet.verbs.evaluate import evaluate
from mlflow_resnet.verbs.train import train

pytestmark = pytest.mark.networks

TARGETS = np.array([0, 0, 1, 1])
PROBABILITIES = np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.1, 0.9]], dtype=np.float32)
NAMES = list(COLORS)


def overconfident(images: int, factor: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Targets drawn from softmax(logits), and softmax(factor * logits)."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(images, 5)) * 2
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    targets = np.array([random.choice(5, p=row) for row in chances])
    sharp = np.exp(factor * logits)
    return targets, (sharp / sharp.sum(axis=1, keepdims=True)).astype(np.float32)


def test_calibration_of_a_hand_worked_example():
    bins = calibration.reliability(TARGETS, PROBABILITIES)
    assert bins["images"].tolist() == [1, 1, 2]
    assert bins["accuracy"].tolist() == [0, 1, 1]
    error = calibration.expected_calibration_error(TARGETS, PROBABILITIES)
    assert error == pytest.approx((0.6 + 0.3 + 2 * 0.1) / 4, abs=1e-6)
    brier = calibration.brier_score(TARGETS, PROBABILITIES)
    assert brier == pytest.approx((0.02 + 0.72 + 0.18 + 0.02) / 4, abs=1e-6)


@pytest.mark.parametrize("images", [1, 300, 100_000])
def test_the_reliability_diagram_counts_the_images_of_every_point_and_hides_none(images):
    targets, probabilities = overconfident(images, factor=3)
    evaluation = Evaluation(tuple("abcde"), targets, probabilities).at_temperature(3)
    figure = confidence_figure(evaluation)
    figure.draw_without_rendering()
    panels = {axes.get_label(): axes for axes in figure.axes}
    diagram, counts = panels["reliability"], panels["images"]
    expected = []
    for points, stage in zip(diagram.lines[1:], (evaluation.as_trained, evaluation), strict=True):
        bins = calibration.reliability(stage.targets, stage.probabilities)
        assert points.get_xdata().tolist() == bins["confidence"].tolist()
        expected += bins["images"].tolist()
    assert [int(text.get_text()) for text in counts.texts] == expected
    (legend,) = figure.legends
    assert not any(legend.get_window_extent().overlaps(axes.get_tightbbox()) for axes in figure.axes)
    assert all(counts.bbox.y1 > text.get_window_extent().y1 for text in counts.texts)


def test_the_temperature_undoes_what_made_confidence_wrong():
    targets, probabilities = overconfident(4000, factor=3)
    evaluation = Evaluation(tuple("abcde"), targets, probabilities)
    temperature = evaluation.fit_temperature()
    assert temperature == pytest.approx(3, rel=0.1)
    calibrated = evaluation.at_temperature(temperature)
    scores = calibrated.calibration
    assert scores["ece"] < 0.02 < 0.1 < scores["ece_before"]
    assert scores["brier"] < scores["brier_before"]
    assert scores["log_loss"] < scores["log_loss_before"]
    assert (calibrated.probabilities.argmax(1) == probabilities.argmax(1)).all()
    # there and back through logarithms up to 100, in float32
    np.testing.assert_allclose(calibrated.at_temperature(1.0).probabilities, probabilities, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("targets", [[0, 1, 1, 1], [1, 0, 0, 0]])
def test_without_mistakes_or_hits_there_is_no_temperature_to_learn(targets):
    assert Evaluation(("a", "b"), np.array(targets), PROBABILITIES).fit_temperature() == 1


def test_risk_and_coverage_of_a_hand_worked_example():
    curve = calibration.risk_coverage(TARGETS, PROBABILITIES)
    assert curve["coverage"].tolist() == [0.5, 0.75, 1]  # two images have the highest confidence
    assert curve["risk"].tolist() == [0, 0, 0.25]
    assert calibration.area_under(curve) == pytest.approx(0.25 * 0.25)
    table = calibration.thresholds_table(TARGETS, PROBABILITIES, (0, 0.65, 0.95)).to_dict("list")
    assert table["answered"] == [1, 0.75, 0]
    assert table["accuracy"][:2] == [0.75, 1]
    assert pd.isna(table["accuracy"][2])


def test_intervals_hold_the_numbers_and_shrink_with_more_images():
    widths = []
    for images in (100, 10_000):
        targets, probabilities = overconfident(images, factor=1)
        evaluation = Evaluation(tuple("abcde"), targets, probabilities)
        for name, (low, high) in evaluation.intervals.items():
            assert low < evaluation.metrics[name] < high, name
        assert evaluation.intervals == confidence_intervals(targets, probabilities)
        widths.append({name: high - low for name, (low, high) in evaluation.intervals.items()})
    assert all(5 < few / widths[1][name] < 20 for name, few in widths[0].items())  # the square root of 100 is 10


def test_twelve_of_twelve_right_are_no_proof_of_perfection():
    low, high = confidence_intervals(np.zeros(12, int), np.tile(np.float32([0.9, 0.1]), (12, 1)))["top1_accuracy"]
    assert (low, high) == (pytest.approx(0.7575, abs=1e-4), 1)


@pytest.fixture(scope="module")
def doubtful(tracking, tmp_path_factory):
    """A model of noisy labels, which makes mistakes: its result, and the folder with `train`, `val` and `test`."""
    root = tmp_path_factory.mktemp("doubtful")
    for part, count in (("train", 16), ("val", 12), ("test", 8)):
        for number, color in enumerate(COLORS.values()):
            for i in range(count):
                label = NAMES[(number + (i % 4 == 0)) % 3]  # every fourth is wrong
                write_picture(root / part / label / f"{part}-{number}-{i}.png", color, 100 * number + i, (40, 40))
    folders = {f"{part}_dir": str(root / part) for part in ("train", "val", "test")}
    options = TrainOptions(**folders, **TINY | {"epochs": 6}, registered_model_name="doubtful", audit=False)
    return train(options), root


def predictions(run_id: str, context: str) -> pd.DataFrame:
    return pd.read_parquet(
        mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=f"{context}/predictions.parquet")
    )


@pytest.mark.parametrize(("context", "part", "images"), [("validation", "val", 36), ("test", "test", 24)])
def test_the_logged_numbers_are_scikit_learns_of_the_logged_predictions(doubtful, context, part, images):
    result, _ = doubtful
    table = predictions(result.run_id, context)
    assert len(table) == images
    logged = mlflow.get_run(result.run_id).data.metrics
    probabilities = table[[PROBABILITY + name for name in NAMES]].to_numpy(np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    truth, predicted = table["label"], table["Scored Labels"]
    expected = {
        f"{part}_top1_accuracy": sklearn_metrics.accuracy_score(truth, predicted),
        f"{part}_balanced_accuracy": sklearn_metrics.balanced_accuracy_score(truth, predicted),
        f"calibration/{part}_log_loss": sklearn_metrics.log_loss(truth, probabilities, labels=NAMES),
        f"ranking/{part}_auc_ovr": sklearn_metrics.roc_auc_score(truth, probabilities, multi_class="ovr", labels=NAMES),
    }
    for average in ("micro", "macro", "weighted"):
        scores = sklearn_metrics.precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
        names = [f"{part}_{average}_{name}" for name in ("precision", "recall", "f1")]
        expected |= dict(zip(names, scores[:3], strict=True))
    # both in float64, of the float32 probabilities in the table; its losses are float32, below 16
    assert {name: logged[name] for name in expected} == pytest.approx(expected, rel=0, abs=1e-9)
    assert table["loss"].mean() == pytest.approx(logged[f"calibration/{part}_log_loss"], abs=16 * UNIT)
    assert 0 < logged[f"{part}_top1_accuracy"] < 1
    assert logged[f"interval/{part}_top1_accuracy_low"] < logged[f"{part}_top1_accuracy"]


def test_what_is_served_is_what_was_calibrated(doubtful):
    result, root = doubtful
    temperature = mlflow.get_run(result.run_id).data.metrics["calibration/temperature"]
    assert temperature != 1
    assert result.classifier.temperature == temperature
    model = mlflow.pyfunc.load_model(result.model_uri, model_config={"precision": "fp32"})  # as in training
    assert model.get_raw_model().temperature == temperature
    scored = model.predict(str(root / "val")).set_index("image")
    table = predictions(result.run_id, "validation")
    columns = [PROBABILITY + name for name in NAMES]
    assert_same_probabilities(scored.loc[[f"{root}/val/{image}" for image in table["image"]], columns], table[columns])
    again = evaluate(EvaluateOptions(model_uri=result.model_uri, image_dir=str(root / "val"), precision="fp32"))
    logged = mlflow.get_run(result.run_id).data.metrics
    assert again.headline["log_loss"] == about(logged["calibration/val_log_loss"])
    assert again.calibration["log_loss_before"] == about(logged["val_loss"])


def test_a_new_training_from_a_calibrated_model_begins_uncalibrated(doubtful):
    from mlflow_resnet.runs.preparation import prepare_training

    result, root = doubtful
    options = TrainOptions(train_dir=str(root / "train"), **TINY | {"pretrained": True, "weights": result.model_uri})
    assert prepare_training(options).classifier.temperature == 1


def test_a_test_image_that_was_trained_on_is_a_leak(trained, images, tmp_path):
    write_picture(tmp_path / "test" / "007" / "new.png", (200, 60, 40), 5)
    shutil.copy(images / "train" / "007" / "00.jpg", tmp_path / "test" / "007" / "copy.jpg")
    folders = {"train_dir": str(images / "train"), "val_dir": str(images / "val"), "test_dir": str(tmp_path / "test")}
    result = train(TrainOptions(**folders, **TINY | {"epochs": 1}))
    run = mlflow.get_run(result.run_id)
    assert run.data.metrics["audit_leak"] == 2
    assert "Audit: leak 2, " in run.data.tags["mlflow.note.content"]


def test_images_worth_a_look_are_sorted_by_what_they_show():
    found = worth_a_look(Evaluation(("a", "b"), TARGETS, PROBABILITIES))
    assert found["confident_mistakes"].tolist() == [1]
    assert found["top_losses"].tolist()[:2] == [1, 2]
    assert found["unsure_hits"].tolist() == [2, 0, 3]
    assert "confident_mistakes" not in worth_a_look(Evaluation(("a", "b"), TARGETS[2:], PROBABILITIES[2:]))


def test_the_card_tells_results_confidence_limits_and_how_to_repeat_it(doubtful):
    result, root = doubtful
    run = mlflow.get_run(result.run_id)
    card = run.data.tags["mlflow.note.content"]
    metrics = run.data.metrics
    low, high = (metrics[f"interval/test_top1_accuracy_{end}"] for end in ("low", "high"))
    assert f"| test_top1_accuracy | {metrics['test_top1_accuracy']:.2%} | {low:.2%} to {high:.2%} |" in card
    assert f"Probabilities are those at temperature {metrics['calibration/temperature']:.3f}" in card
    assert "No licence but that of the images binds them." in card
    assert f"mlflow-resnet train --train-dir '{root}/train'" in card or f"--train-dir {root}/train" in card
    assert "--epochs 6" in card
    assert "Fewer than 20 validation images" in card
    version = mlflow.MlflowClient().get_model_version("doubtful", result.version)
    assert version.description == card
    assert version.tags["test_top1_accuracy"] == f"{metrics['test_top1_accuracy']:.4f} [{low:.4f}, {high:.4f}]"


def test_the_command_in_the_card_is_the_one_that_was_given():
    options = TrainOptions(train_dir="my photos", architecture="resnet50", offline=True)
    expected = "mlflow-resnet train --train-dir 'my photos' --architecture resnet50 --offline True"
    assert options.command() == expected
    many = replace(options, train_dir="my very long folder of photos", epochs=3)
    first, *others = many.command().splitlines()
    assert first == "mlflow-resnet train \\"
    assert others[0] == "    --train-dir 'my very long folder of photos' \\"
    assert shlex.split(many.command().replace("\\\n", ""))[-2:] == ["--offline", "True"]


def test_a_very_long_card_is_cut_at_the_end_of_a_line():
    from mlflow_resnet.tracking.card import cut_text

    assert cut_text("ab\ncd", 5) == "ab\ncd"
    text = cut_text("\n".join(f"line {i}" for i in range(2000)), 5000)
    assert len(text) <= 5000
    assert text.splitlines()[-1] == "… (cut; MLflow keeps no more)"
    assert text.splitlines()[-3].startswith("line ")


def test_predict_leaves_out_labels_it_is_unsure_of(doubtful):
    result, root = doubtful
    model = mlflow.pyfunc.load_model(result.model_uri)
    everything = model.predict(str(root / "val"))
    columns = [PROBABILITY + name for name in NAMES]
    threshold = float(everything[columns].max(axis=1).median())
    rows = model.predict(str(root / "val"), params={"min_confidence": threshold})
    unsure = everything[columns].max(axis=1) < threshold
    assert 0 < unsure.sum() < len(rows)
    assert rows["Scored Labels"].isna().tolist() == unsure.tolist()
    assert rows.loc[~unsure, "Scored Labels"].tolist() == everything.loc[~unsure, "Scored Labels"].tolist()
    assert (rows.loc[~unsure, "error"] == "").all()
    assert (
        rows.loc[unsure, "error"].str.startswith(f"no class has min_confidence {threshold:g}; the highest is 0.").all()
    )
    pd.testing.assert_frame_equal(rows[columns], everything[columns], check_exact=True)


def test_score_with_min_confidence_tells_how_many_it_left_out(doubtful, tmp_path):
    result, root = doubtful
    done = run_main(
        "score", "--model-uri", result.model_uri, "--image-dir", root / "val", "--output", tmp_path / "scored.csv",
        "--min-confidence", 0.9999,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    written = pd.read_csv(tmp_path / "scored.csv")
    unsure = written["Scored Labels"].isna()
    assert unsure.sum() > 0
    assert f"{unsure.sum()} of them have no label, because no class has the --min-confidence" in done.stdout


def test_an_impossible_min_confidence_is_refused(doubtful):
    model = mlflow.pyfunc.load_model(doubtful[0].model_uri)
    with pytest.raises(InvalidOptionsError, match=r"min_confidence is 1.5; it must be at most 1"):
        model.predict(b"", params={"min_confidence": 1.5})


def test_a_model_without_a_temperature_loads(doubtful, tmp_path):
    from mlflow_resnet.flavor import load_model, save_model

    save_model(doubtful[0].classifier, tmp_path / "model")
    path = tmp_path / "model" / "data" / "classifier.json"
    facts = json.loads(path.read_text())
    assert facts["temperature"] == doubtful[0].classifier.temperature
    del facts["temperature"]
    path.write_text(json.dumps(facts | {"format_version": 1}))
    described = tmp_path / "model" / "MLmodel"  # which had no digest then
    described.write_text(re.sub("model_sha256: .*", "weights_sha256: x", described.read_text()))
    assert load_model(str(tmp_path / "model")).temperature == 1


def test_classes_and_files_of_any_name_are_drawn(tmp_path, trained):
    from mlflow_resnet.evaluation.report import write_evaluation_report
    from mlflow_resnet.images.directories import list_labeled
    from mlflow_resnet.model.prediction import Predictor

    names = ["$\\frac$ & <b>", "سیب", "a\tb" + "_long" * 20]
    for number, (name, color) in enumerate(zip(names, COLORS.values(), strict=True)):
        write_picture(tmp_path / "images" / name / "line\nbreak $x.png", color, number)
    directory = list_labeled(tmp_path / "images")
    probabilities = np.eye(3, dtype=np.float32)[[1, 0, 2]] * 0.7 + 0.1
    evaluation = Evaluation(directory.class_names, np.arange(3), probabilities)
    (tmp_path / "report").mkdir()
    write_evaluation_report(tmp_path / "report", evaluation, directory, Predictor(trained.classifier))
    assert {"confusion_matrix.png", "top_losses.png"} <= {path.name for path in (tmp_path / "report").iterdir()}
