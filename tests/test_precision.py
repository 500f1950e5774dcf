"""Scoring in bf16: only where it was checked when the model was logged."""

from dataclasses import replace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import run_main
from rounding import BF16
from tiers import needs

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.evaluation.evaluation import evaluate_directory
from mlflow_resnet.evaluation.precision_checks import precision_checks
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.model.precision import PrecisionCheck, has_native_bf16, is_bf16_faster, scoring_precision
from mlflow_resnet.model.prediction import Predictor

pytestmark = pytest.mark.networks

CPU = torch.device("cpu")
GOOD, BAD = PrecisionCheck(100, 1.0, 0.0), PrecisionCheck(100, 0.9, -0.1)
native = pytest.mark.skipif(not has_native_bf16(CPU), reason=needs("bf16", "a CPU that has it"))


def test_agreement_and_accuracy_decide():
    assert GOOD.passes
    assert PrecisionCheck(1000, 0.995, -0.005).passes
    assert not BAD.passes
    assert not PrecisionCheck(1000, 0.994, 0.0).passes
    assert not PrecisionCheck(1000, 1.0, -0.006).passes
    assert not PrecisionCheck(0, 1.0, 0.0).passes


@native
def test_auto_is_bf16_only_after_a_check_that_passed():
    assert scoring_precision("auto", CPU, {}) == "fp32"
    assert scoring_precision("auto", CPU, {"bf16": BAD}) == "fp32"
    assert scoring_precision("auto", CPU, {"bf16": GOOD}) == ("bf16" if is_bf16_faster(CPU) else "fp32")
    assert scoring_precision("fp32", CPU, {"bf16": GOOD}) == "fp32"
    assert scoring_precision("bf16", CPU, {}) == "bf16"


def test_a_precision_that_does_not_exist():
    with pytest.raises(InvalidOptionsError, match="precision is 'fp8'; choose one of auto, bf16, fp32"):
        scoring_precision("fp8", CPU, {})


@native
def test_training_checks_bf16_and_the_model_remembers(trained, images):
    found = flavor.load_model(trained.model_uri).precision_checks["bf16"]
    assert found == trained.classifier.precision_checks["bf16"]
    assert found.images == len(list_labeled(images / "val"))
    assert 0 <= found.label_agreement <= 1


@native
def test_what_the_check_says_is_what_both_precisions_predict(trained, images):
    directory = list_labeled(images / "val")
    fp32 = evaluate_directory(Predictor(trained.classifier, "cpu", precision="fp32"), directory)
    bf16 = evaluate_directory(Predictor(trained.classifier, "cpu", precision="bf16"), directory)
    assert not np.array_equal(fp32.probabilities, bf16.probabilities)
    np.testing.assert_allclose(fp32.probabilities, bf16.probabilities, rtol=0, atol=BF16)
    (found,) = precision_checks(trained.classifier, fp32, directory, "cpu", 0).values()
    same = fp32.probabilities.argmax(axis=1) == bf16.probabilities.argmax(axis=1)
    assert found.label_agreement == same.mean()
    assert found.accuracy_change == pytest.approx(bf16.hits.mean() - fp32.hits.mean())


@native
def test_a_network_that_bf16_changes_stays_in_fp32(trained, images):
    directory = list_labeled(images / "val")
    fp32 = evaluate_directory(Predictor(trained.classifier, "cpu", precision="fp32"), directory)
    other = replace(fp32, probabilities=np.roll(fp32.probabilities, 1, axis=1))
    checks = precision_checks(trained.classifier, other, directory, "cpu", 0)
    assert not checks["bf16"].passes
    assert Predictor(replace(trained.classifier, precision_checks=checks), "cpu").precision == "fp32"


@native
def test_images_that_are_gone_when_training_ends_prove_nothing(trained, images, tmp_path):
    directory = list_labeled(images / "val")
    fp32 = evaluate_directory(Predictor(trained.classifier, "cpu", precision="fp32"), directory)
    gone = replace(directory, paths=tuple(str(tmp_path / name) for name in directory.names))
    (found,) = precision_checks(trained.classifier, fp32, gone, "cpu", 0).values()
    assert (found.images, found.passes) == (0, False)


def test_the_precision_of_a_loaded_model_can_be_chosen(trained, images):
    picture = str(images / "val" / "007" / "00.jpg")
    fp32, again, bf16 = (
        mlflow.pyfunc.load_model(trained.model_uri, model_config={"precision": name}).predict(picture)
        for name in ("fp32", "fp32", "bf16")
    )
    pd.testing.assert_frame_equal(fp32, again)
    assert not fp32.equals(bf16)
    pd.testing.assert_frame_equal(fp32, bf16, rtol=0, atol=BF16)


def test_score_in_a_precision_of_choice(trained, images, tmp_path):
    rows = {}
    for precision in ("fp32", "bf16"):
        command = ["score", "--model-uri", trained.model_uri, "--image-dir", images / "val"]
        output = tmp_path / f"{precision}.parquet"
        done = run_main(*command, "--output", output, "--precision", precision)
        assert done.returncode == 0, done.stderr
        rows[precision] = pd.read_parquet(output)
    assert not rows["fp32"].equals(rows["bf16"])
    pd.testing.assert_frame_equal(rows["fp32"], rows["bf16"], rtol=0, atol=BF16)
