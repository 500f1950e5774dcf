"""Models for other engines: written, compared, registered, and predicting like any other model."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import COLORS, run_main
from rounding import BF16, INT8, LOSS, assert_same_probabilities
from tiers import needs

import mlflow_resnet
from mlflow_resnet.errors import (
    InvalidModelError,
    InvalidOptionsError,
    MissingPackageError,
    TamperedModelError,
    TamperedWeightsError,
)
from mlflow_resnet.flavor import load_predictor
from mlflow_resnet.model.forwards import load_forward
from mlflow_resnet.model.storage import hash_file, read_classifier
from mlflow_resnet.options import ExportOptions

pytestmark = pytest.mark.networks

CHAMPION = "models:/colors@champion"
PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]


@pytest.fixture(scope="module")
def given(trained, images, tmp_path_factory):
    """What every export here has in common, and a new output directory for each."""

    def options(**changes):
        common = {"model_uri": CHAMPION, "image_dir": str(images / "val"), "num_workers": 1}
        return ExportOptions(**common | {"output_dir": str(tmp_path_factory.mktemp("exports") / "out")} | changes)

    return options


@pytest.fixture(scope="module")
def openvino_model(given):
    """Exported in fp32 to OpenVINO, and registered as `fast`."""
    need("openvino")
    return mlflow_resnet.export(given(format="openvino", registered_model_name="fast"))


@pytest.fixture(scope="module")
def int8_model(given, images):
    need("openvino")
    need("nncf")
    options = {"format": "openvino", "precision": "int8", "calibration_dir": str(images / "train")}
    return mlflow_resnet.export(given(**options, registered_model_name="small"))


@pytest.fixture(scope="module")
def expected(trained, images):
    """What torch says in fp32."""
    return scored(CHAMPION, images, backend="torch", precision="fp32")


def need(package):
    return pytest.importorskip(package, reason=needs(package, f"pip install {package}"))


def scored(model_uri, images, **config):
    return mlflow.pyfunc.load_model(model_uri, model_config=config).predict(str(images / "val"))


def assert_same(found, expected, tolerance=None):
    """Labels, and probabilities but for the rounding of float32; `tolerance`: of another number format."""
    assert list(found["Scored Labels"]) == list(expected["Scored Labels"])
    if tolerance is None:
        assert_same_probabilities(found[PROBABILITIES], expected[PROBABILITIES])
    else:
        np.testing.assert_allclose(found[PROBABILITIES], expected[PROBABILITIES], rtol=0, atol=tolerance)


def pictures(classifier, images):
    """All pictures of `val` as any program could make them: uint8 of shape (12, 3, 32, 32)."""
    paths = sorted((images / "val").rglob("*.jpg"))
    return np.stack([classifier.preprocessing.load(path.read_bytes()).numpy() for path in paths])


def test_openvino_gives_what_torch_gives(openvino_model, expected, images):
    parity = openvino_model.parity
    assert (parity.images, parity.label_agreement, parity.accuracy) == (12, 1.0, parity.accuracy_of_fp32)
    assert parity.log_probability_difference < LOSS
    assert_same(scored("models:/fast/1", images), expected)
    assert openvino_model.model_uri == "models:/fast/1"


def test_a_registered_export_scores_on_the_command_line(openvino_model, expected, images, tmp_path):
    for backend in ("auto", "torch"):
        output = tmp_path / f"{backend}.csv"
        result = run_main(
            "score",
            "--model-uri",
            "models:/fast/1",
            "--image-dir",
            images / "val",
            "--output",
            output,
            "--backend",
            backend,
        )
        assert result.returncode == 0, result.stderr
        assert_same(pd.read_csv(output, dtype={"Scored Labels": str}), expected)


@pytest.mark.slow
def test_evaluation_and_promotion_measure_what_was_exported(int8_model):
    predictor = load_predictor("models:/small/1")
    assert (predictor.precision, predictor.device.type) == ("int8", "cpu")
    assert type(predictor.probabilities).__name__ == "OpenVinoForward"
    assert load_predictor("models:/small/1", backend="torch", precision="fp32").precision == "fp32"


@pytest.mark.slow
def test_int8_gives_the_same_labels_and_other_configurations_are_converted(int8_model, expected, images):
    assert int8_model.parity.accuracy >= int8_model.parity.accuracy_of_fp32 - 0.005
    small = scored("models:/small/1", images)
    assert_same(small, expected, INT8)
    assert np.abs(small[PROBABILITIES] - expected[PROBABILITIES]).to_numpy().max() > 1e-5  # it is another network
    assert_same(scored("models:/small/1", images, precision="fp32"), expected)
    assert_same(scored("models:/small/1", images, precision="bf16"), expected, BF16)


def test_any_model_can_be_loaded_with_another_backend(expected, images):
    need("openvino")
    assert_same(scored(CHAMPION, images, backend="openvino", precision="fp32"), expected)


def test_threads_share_a_model(openvino_model, expected, images):
    model = mlflow.pyfunc.load_model("models:/fast/1")
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(model.predict, [str(images / "val")] * 8):
            assert_same(found, expected)


def test_other_programs_can_use_the_files(openvino_model, trained, expected, images):
    import openvino

    described = json.loads((openvino_model.path / "classifier.json").read_text())
    assert (described["classes"], described["preprocessing"]["crop_size"]) == (list(COLORS), 32)
    compiled = openvino.Core().compile_model(
        openvino_model.path / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    found = compiled(pictures(trained.classifier, images))[0]
    assert_same_probabilities(found, expected[PROBABILITIES])


@pytest.mark.slow
def test_onnx_runs_anywhere(given, trained, expected, images):
    need("onnxscript")
    runtime = need("onnxruntime")
    options = {"format": "onnx", "registered_model_name": "portable", "serving_for": "azureml"}
    exported = mlflow_resnet.export(given(**options))
    session = runtime.InferenceSession(exported.path / "model.onnx")
    seen = pictures(trained.classifier, images)
    for part in (slice(0, 1), slice(0, 12)):
        (found,) = session.run(None, {"images": seen[part]})
        assert_same_probabilities(found, expected[PROBABILITIES][part])
    assert_same(scored("models:/portable/1", images), expected)
    requirements = Path(mlflow.pyfunc.get_model_dependencies("models:/portable/1")).read_text()
    assert {"onnxruntime", "azureml-inference-server-http"} <= set(re.findall(r"^[\w-]+", requirements, re.M))


@pytest.mark.slow
def test_onnx_in_int8(given, expected, images):
    for package in ("onnxscript", "onnxruntime", "nncf"):
        need(package)
    options = {"format": "onnx", "precision": "int8", "calibration_dir": str(images / "train")}
    exported = mlflow_resnet.export(given(**options, registered_model_name="portable and small"))
    assert exported.parity.accuracy >= exported.parity.accuracy_of_fp32 - 0.005
    small = scored("models:/portable and small/1", images)
    assert_same(small, expected, INT8)
    assert np.abs(small[PROBABILITIES] - expected[PROBABILITIES]).to_numpy().max() > 1e-5


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", LOSS), ("bf16", BF16)])
def test_torch_loads_what_it_exported(precision, tolerance, given, trained, expected, images):
    exported = mlflow_resnet.export(given(format="torch_export", precision=precision))
    module = torch.export.load(exported.path / "model.pt2").module()
    seen = torch.from_numpy(pictures(trained.classifier, images))
    for part in (slice(0, 1), slice(0, 12)):
        found = module(seen[part]).numpy(force=True)
        np.testing.assert_allclose(found, expected[PROBABILITIES][part], rtol=0, atol=tolerance)


@pytest.mark.slow
def test_int8_that_loses_accuracy_is_refused(trained, given, images, tmp_path):
    need("nncf")
    mlflow_resnet.save_model(with_an_outlier(trained.classifier), tmp_path / "model")
    out = tmp_path / "out"
    result = run_main(
        *("export", "--model-uri", tmp_path / "model", "--format", "openvino", "--precision", "int8"),
        *("--image-dir", images / "val", "--calibration-dir", images / "train", "--output-dir", out),
    )
    assert result.returncode == 2
    assert "less than fp32; 0.005 is allowed. Nothing was written." in result.stderr.splitlines()[-1]
    assert not out.exists()


def with_an_outlier(classifier):
    """The same in fp32: one channel is enormous, and nothing takes it into account."""
    other = mlflow_resnet.new_classifier(classifier.architecture, classifier.classes, classifier.preprocessing)
    other.network.load_state_dict(classifier.network.state_dict())
    with torch.no_grad():
        other.network.layer3[1].bn2.bias[0] = 1e5
        for conv in (other.network.layer4[0].conv1, other.network.layer4[0].downsample[0]):
            conv.weight[:, 0] = 0
    return replace(other, network=other.network.eval())


@pytest.fixture
def copy(openvino_model, tmp_path):
    """A folder with the registered model."""
    return shutil.copytree(mlflow.artifacts.download_artifacts("models:/fast/1"), tmp_path / "copy")


def test_a_changed_file_is_refused(copy):
    path = copy / "data" / "openvino" / "model.bin"
    before, content = hash_file(path), bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        TamperedWeightsError, match=f"sha256 is {hash_file(path)}, but the model was saved with {before}"
    ):
        mlflow.pyfunc.load_model(str(copy))
    path.unlink()
    with pytest.raises(InvalidModelError, match="missing"):
        mlflow.pyfunc.load_model(str(copy))


def test_files_of_another_model_are_refused(copy):
    path = copy / "data" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"temperature": 7.0}))
    with pytest.raises(TamperedModelError, match="model_sha256 is"):
        mlflow.pyfunc.load_model(str(copy))
    classifier = read_classifier(copy / "data")[0]
    with pytest.raises(InvalidModelError, match="was exported from another model"):
        load_forward(classifier, copy / "data" / "openvino")


def test_exports_that_were_exchanged_or_damaged_are_refused(copy):
    path = copy / "data" / "openvino" / "export.json"
    path.write_text(path.read_text().replace('"fp32"', '"bf16"'))
    with pytest.raises(TamperedModelError, match="model_sha256 is"):
        mlflow.pyfunc.load_model(str(copy))
    for text in ("{}", '{"files": 3}', "["):
        path.write_text(text)
        with pytest.raises(InvalidModelError, match="no readable export.json"):
            mlflow.pyfunc.load_model(str(copy))


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"backend": "tensorrt"}, "backend is 'tensorrt'; choose one of torch, onnx, openvino"),
        (
            {"backend": "onnx", "precision": "bf16"},
            "precision is 'bf16'; with backend onnx, choose one of auto, fp32, int8",
        ),
        ({"precision": "int8"}, "precision is 'int8'; with backend torch, choose one of auto, fp32, bf16"),
        ({"backend": "openvino", "device": "meta"}, "device is 'meta'"),
    ],
)
def test_a_configuration_that_cannot_work_is_one_line(config, problem, trained):
    with pytest.raises(InvalidOptionsError, match=problem):
        mlflow.pyfunc.load_model(CHAMPION, model_config=config)


def test_int8_has_to_be_exported_first(trained):
    with pytest.raises(InvalidModelError, match="make one: mlflow-resnet export --format openvino --precision int8"):
        mlflow.pyfunc.load_model(CHAMPION, model_config={"backend": "openvino", "precision": "int8"})


@pytest.mark.parametrize(("backend", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_backend_that_is_not_installed_names_its_extra(backend, package, trained, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(MissingPackageError, match=f"mlflow_resnet\\[{backend}\\]"):
        mlflow.pyfunc.load_model(CHAMPION, model_config={"backend": backend, "precision": "fp32"})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"format": "coreml"}, "format is 'coreml'; choose one of onnx, openvino, torch_export"),
        ({"format": "onnx", "precision": "bf16"}, "precision is 'bf16'; for onnx, choose one of fp32, int8"),
        ({"format": "onnx", "precision": "int8"}, "int8 and calibration_dir need each other"),
        ({"format": "torch_export", "registered_model_name": "m"}, "leave out registered_model_name"),
        ({"format": "onnx", "serving_for": "azureml"}, "for a registered model; add registered_model_name"),
    ],
)
def test_options_that_cannot_work_are_refused(changes, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        ExportOptions(**{"model_uri": "m", "image_dir": "i", "output_dir": "o"} | changes)
    assert problem in caught.value.message
