"""Saving, logging and loading a classifier as an MLflow model."""

import hashlib
import json
import os
import re
import shutil
from importlib.metadata import version

import mlflow
import pytest
import torch
import yaml
from helpers import COLORS, write_class_folders
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from safetensors.torch import save

import mlflow_resnet
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError, TamperedWeightsError
from mlflow_resnet.flavor import DEFAULT_MODEL_CONFIG, log_model_sha256
from mlflow_resnet.model.storage import hash_file, read_classifier

CLASSES = tuple(COLORS)


@pytest.fixture(scope="module")
def classifier():
    made = mlflow_resnet.new_classifier("resnet18", CLASSES, mlflow_resnet.Preprocessing(36, 32, mean=(0.5, 0.4, 0.3)))
    made.network.train()(torch.rand(8, 3, 32, 32))  # batch norms that are not in their first state
    return mlflow_resnet.ImageClassifier(made.architecture, made.classes, made.preprocessing, made.network.eval())


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved models") / "model"
    mlflow_resnet.save_model(classifier, path)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("pictures"), 1) / "007" / "00.jpg"


@torch.no_grad()
def logits(classifier):
    return classifier.network(torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(3)))


def with_file(saved, copy, name, content):
    """A copy of the model in which one file is another; None: missing."""
    shutil.copytree(saved, copy, copy_function=os.link)
    (copy / name).unlink()
    if content is not None:
        (copy / name).write_bytes(content)
    return copy


def requirements(path):
    return (path / "requirements.txt").read_text().split()


def test_what_is_loaded_is_what_was_saved(classifier, saved):
    loaded = mlflow_resnet.load_model(str(saved))
    assert torch.equal(logits(loaded), logits(classifier))
    assert loaded.classes == ("007", "blue sky", "grün")
    assert (loaded.architecture, loaded.preprocessing) == ("resnet18", classifier.preprocessing)
    assert torch.equal(logits(mlflow.pyfunc.load_model(saved).get_raw_model()), logits(classifier))


def test_a_model_of_format_1_loads_as_it_was_written(classifier, tmp_path):
    content = save(classifier.network.state_dict())
    (tmp_path / "model.safetensors").write_bytes(content)
    described = {"format_version": 1, "architecture": "resnet18", "classes": ["007", "blue sky", "grün"]}
    described["preprocessing"] = {"resize_size": 36, "crop_size": 32, "mean": [0.5, 0.4, 0.3]}
    described["preprocessing"] |= {"std": [0.229, 0.224, 0.225], "padding": 0, "grayscale": False}
    described |= {"training": {"recipe": {"epochs": 8}}, "weights_sha256": hashlib.sha256(content).hexdigest()}
    (tmp_path / "classifier.json").write_text(json.dumps(described | {"torch_version": "2.6.0"}, indent=2) + "\n")
    loaded = read_classifier(tmp_path)[0]
    assert torch.equal(logits(loaded), logits(classifier))
    assert (loaded.classes, loaded.preprocessing) == (CLASSES, classifier.preprocessing)
    assert (loaded.temperature, loaded.precision_checks) == (1.0, {})


def test_mlmodel_names_what_the_loaders_need(saved):
    model = yaml.safe_load((saved / "MLmodel").read_text())
    ours, python_function = model["flavors"]["mlflow_resnet"], model["flavors"]["python_function"]
    assert python_function["loader_module"] == "mlflow_resnet.flavor"
    assert (python_function["data"], ours["data"]) == ("data", "data")
    assert python_function["code"] == "code/mlflow_resnet.zip"
    assert python_function["config"] == DEFAULT_MODEL_CONFIG
    assert (ours["architecture"], ours["number_of_classes"]) == ("resnet18", 3)
    assert re.fullmatch("[0-9a-f]{64}", ours["model_sha256"])
    outputs = [column["name"] for column in json.loads(model["signature"]["outputs"])]
    assert outputs == ["image", "Scored Labels", *(f"Scored Probabilities_{name}" for name in CLASSES), "error"]
    assert json.loads(model["signature"]["inputs"]) == [{"type": "string", "required": True}]


def test_a_model_has_nine_files_and_no_pickle(saved):
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert files == {
        "MLmodel",
        "conda.yaml",
        "python_env.yaml",
        "requirements.txt",
        "data/model.safetensors",
        "data/classifier.json",
        "code/mlflow_resnet.zip",
        "input_example.json",
        "serving_input_example.json",
    }


def test_requirements_are_pinned_without_local_versions(saved):
    assert f"mlflow=={mlflow.__version__}" in requirements(saved)
    for name in ("torch", "torchvision", "pillow", "safetensors", "numpy", "pandas"):
        assert f"{name}=={version(name).split('+')[0]}" in requirements(saved)
    assert not re.search(r"\+|file:|mlflow.resnet", "\n".join(requirements(saved)))


def test_the_input_example_predicts(saved):
    example = Model.load(saved).load_input_example(str(saved))
    scored = mlflow.pyfunc.load_model(saved).predict(example)
    assert list(scored["error"]) == [""]
    assert scored["Scored Labels"][0] in CLASSES


def test_requirements_can_be_added_or_replaced(classifier, tmp_path):
    mlflow_resnet.save_model(classifier, tmp_path / "added", extra_pip_requirements=["click==8.1.8"])
    assert requirements(tmp_path / "added")[-1] == "click==8.1.8"
    assert f"safetensors=={version('safetensors')}" in requirements(tmp_path / "added")
    (tmp_path / "extra.txt").write_text("click==8.1.7\n")
    mlflow_resnet.save_model(classifier, tmp_path / "file", extra_pip_requirements=str(tmp_path / "extra.txt"))
    assert requirements(tmp_path / "file")[-1] == "click==8.1.7"
    mlflow_resnet.save_model(classifier, tmp_path / "replaced", pip_requirements=["mlflow", "torch==1.2.3"])
    assert requirements(tmp_path / "replaced") == ["mlflow", "torch==1.2.3"]
    conda_env = {"name": "mine", "dependencies": ["python=3.11", {"pip": ["mlflow", "torch==4.5.6"]}]}
    mlflow_resnet.save_model(classifier, tmp_path / "conda", conda_env=conda_env)
    assert yaml.safe_load((tmp_path / "conda" / "conda.yaml").read_text())["name"] == "mine"
    assert requirements(tmp_path / "conda") == ["mlflow", "torch==4.5.6"]


def test_a_run_that_is_active_owns_the_logged_model(classifier, workdir):
    with mlflow.start_run() as run:
        info = mlflow_resnet.log_model(classifier, registered_model_name="colors")
    assert (info.run_id, info.registered_model_version) == (run.info.run_id, 1)
    assert torch.equal(logits(mlflow_resnet.load_model("models:/colors/1")), logits(classifier))


def test_without_a_run_the_model_is_logged_and_registered_all_the_same(classifier, workdir):
    info = mlflow_resnet.log_model(classifier, registered_model_name="colors", tags={"by": "hand"})
    assert mlflow.active_run() is None
    assert mlflow.get_logged_model(info.model_id).tags["by"] == "hand"
    for uri in ("models:/colors/1", info.model_uri):
        assert torch.equal(logits(mlflow_resnet.load_model(uri)), logits(classifier))


def test_the_logged_model_knows_the_digest_of_all_that_decides_its_answers_for_good(classifier, workdir, saved):
    info = mlflow_resnet.log_model(classifier)
    model = mlflow.get_logged_model(info.model_id)
    assert model.params["model_sha256"] == Model.load(saved).flavors["mlflow_resnet"]["model_sha256"]
    log_model_sha256(model, model.params["model_sha256"])  # twice is once
    stale = LoggedModel.from_dictionary(model.to_dictionary() | {"params": {}})
    log_model_sha256(stale, model.params["model_sha256"])  # also if the answer to the first time was lost
    with pytest.raises(MlflowException):
        mlflow.log_model_params({"model_sha256": "00"}, info.model_id)


@pytest.mark.parametrize("value", ["0", 0, -1, 2.5, "many", None])
@pytest.mark.parametrize("name", ["batch_size", "max_images_per_request"])
def test_a_configuration_that_cannot_work_is_refused_at_load(name, value, saved):
    with pytest.raises(InvalidOptionsError, match=f"{name} in the model's configuration is {value}; it must be"):
        mlflow.pyfunc.load_model(saved, model_config={name: value})


def test_device_and_batch_size_are_chosen_at_load(saved, picture, monkeypatch):
    loaded = mlflow.pyfunc.load_model(saved, model_config={"device": "cpu", "batch_size": "1"})
    assert loaded.model_config == DEFAULT_MODEL_CONFIG | {"device": "cpu", "batch_size": "1"}
    assert len(loaded.predict([str(picture)] * 3)) == 3
    with pytest.raises(InvalidOptionsError, match="device is 'warp', which cannot be used here"):
        mlflow.pyfunc.load_model(saved, model_config={"device": "warp"})
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "woof")
    mlflow.pyfunc.load_model(saved, model_config={"device": "cpu"})
    with pytest.raises(InvalidOptionsError, match="device is 'woof'"):
        mlflow.pyfunc.load_model(saved)
    monkeypatch.setenv("MLFLOW_PYFUNC_INFERENCE_CONFIG", '{"device": "bark"}')
    with pytest.raises(InvalidOptionsError, match="device is 'bark'"):
        mlflow.pyfunc.load_model(saved)


def test_one_flipped_bit_in_the_weights_is_found(saved, tmp_path):
    content = bytearray((saved / "data" / "model.safetensors").read_bytes())
    content[-1000] ^= 1
    copy = with_file(saved, tmp_path / "copy", "data/model.safetensors", content)
    hashes = [hash_file(folder / "data" / "model.safetensors") for folder in (copy, saved)]
    for load in (mlflow_resnet.load_model, mlflow.pyfunc.load_model):
        with pytest.raises(TamperedWeightsError, match="sha256 is {}, but the model was saved with {}".format(*hashes)):
            load(str(copy))


def edited(**fields):
    return lambda content: json.dumps(json.loads(content) | fields).encode()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data/model.safetensors", None, "missing. Log the model again."),
        ("data/classifier.json", None, "no readable classifier.json"),
        ("data/classifier.json", lambda content: content[:100], "no readable classifier.json"),
        ("data/classifier.json", lambda content: b"[]", "no readable classifier.json"),
        ("data/classifier.json", lambda content: b"\xff", "no readable classifier.json"),
        ("data/classifier.json", edited(format_version=3), "format version 3, but this mlflow_resnet reads up to 2"),
        ("data/classifier.json", edited(classes=["a", "b"]), "does not fit model.safetensors"),
        ("data/classifier.json", edited(classes=5), "no readable classifier.json (classes is 5; expected a list"),
        ("data/classifier.json", edited(architecture="resnet50"), "damaged or does not fit"),
        ("data/classifier.json", edited(architecture="vgg"), "architecture is 'vgg'"),
        ("data/classifier.json", edited(preprocessing={}), "damaged or does not fit"),
        ("MLmodel", None, "not an MLflow model"),
        ("MLmodel", lambda content: b"{", "not an MLflow model"),
        ("MLmodel", lambda text: text.replace(b"mlflow_resnet:", b"x:"), "flavors are x, python_function; expected"),
    ],
)
def test_a_damaged_model_is_one_line(name, change, message, saved, tmp_path):
    copy = with_file(saved, tmp_path / "copy", name, change and change((saved / name).read_bytes()))
    with pytest.raises(InvalidModelError, match=re.escape(message)) as caught:
        mlflow_resnet.load_model(str(copy))
    assert "\n" not in caught.value.message
    assert str(copy) in caught.value.message


@pytest.mark.parametrize("uri", ["models:/nope/1", "models:/nope@champion", "runs:/nope/model", "/nope", "nope://x"])
def test_a_uri_without_a_model_is_one_line_that_names_it(uri, workdir):
    problem = "not in the registry" if uri.startswith("models:") else "cannot be loaded"
    with pytest.raises(InvalidModelError, match=f"^{uri}: {problem}") as caught:
        mlflow_resnet.load_model(uri)
    assert "\n" not in caught.value.message
