"""Versions whose files claim more than a server may take."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from served import new_classifier

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidModelError, InvalidOptionsError
from mlflow_resnet.io.memory import available_memory
from mlflow_resnet.mlflow_seams import CONFIGURATION_VARIABLE
from mlflow_resnet.model.storage import read_model
from mlflow_resnet.scoring.configuration import CONFIG_LIMITS, configure_model
from mlflow_resnet.scoring.over_http.guard import SERVING
from mlflow_resnet.serving import version
from mlflow_resnet.serving.version import check_fits, check_texts, read_configuration


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    path = tmp_path_factory.mktemp("fitting") / "model"
    flavor.save_model(new_classifier(1), path)
    return path


@pytest.fixture
def saved(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "model", copy_function=os.link))


def change(file, change):
    """Changes a file that may be linked to that of another test."""
    shutil.copy(file, file.with_suffix(".new"))
    file.with_suffix(".new").replace(file)
    with open(file, "r+b") as opened:
        change(opened)


def change_description(saved, **changes):
    file = saved / "data" / "classifier.json"
    description = json.loads(file.read_text())
    description["preprocessing"] |= changes.pop("preprocessing", {})
    file.unlink()
    file.write_text(json.dumps(description | changes))


def problem_of(saved, config=()):
    with pytest.raises(InvalidModelError) as refused:  # noqa: PT012 - either of them
        check_texts(saved)
        check_fits(saved, dict(config))
    assert "\n" not in refused.value.message
    return refused.value.problem


def test_an_honest_version_fits(saved):
    check_texts(saved)
    check_fits(saved, read_configuration(saved, "auto"))


@pytest.mark.parametrize("name", CONFIG_LIMITS)
@pytest.mark.parametrize("value", [10**6, "1000000", 10**30, -1, 0, "x", None, [1], 1.5])
def test_numbers_of_a_models_configuration_have_limits(name, value, saved, monkeypatch):
    monkeypatch.setenv(SERVING, "true")
    expected = f"{name} in the model's configuration is {re.escape(str(value))}"
    with pytest.raises(InvalidOptionsError, match=expected):
        configure_model(read_model(saved), {name: value})
    if name != "max_images_per_request":
        assert f"{name} in the model's configuration is {value}" in problem_of(saved, {name: value})


def test_the_operator_decides_about_more(saved, monkeypatch):
    monkeypatch.setenv(SERVING, "true")
    monkeypatch.setenv(CONFIGURATION_VARIABLE, '{"max_images_per_request": "5000", "x": 1}')
    configure_model(read_model(saved), {"max_images_per_request": 5000})
    with pytest.raises(InvalidOptionsError, match="is 6000, over the limit of 1024; who runs the server can set it"):
        configure_model(read_model(saved), {"max_images_per_request": 6000})
    for text in ("{", "[]", '{"max_images_per_request": "x"}'):
        monkeypatch.setenv(CONFIGURATION_VARIABLE, text)
        with pytest.raises(InvalidOptionsError):
            configure_model(read_model(saved), {"max_images_per_request": 6000})


def test_a_python_caller_decides_for_himself(saved):
    configure_model(read_model(saved), {"batch_size": 5000, "max_images_per_request": 10**6})


def test_a_version_without_room_is_not_loaded(saved):
    weights = saved / "data" / "model.safetensors"
    change(weights, lambda file: file.truncate(available_memory()))  # a hole: takes no space on the disk
    assert re.fullmatch(r"needs about .* GiB of memory, and .* are free\. Serve it .*", problem_of(saved))


@pytest.mark.parametrize("side", [10**5, 0, -5, 2049])
def test_a_version_looks_at_images_of_a_bounded_size(side, saved):
    change_description(saved, preprocessing={"crop_size": side})
    assert problem_of(saved) == f"looks at images of {side} pixels; expected 1 to 2048."
    change_description(saved, preprocessing={"crop_size": 2048, "padding": 10**9})
    assert "pixels" in problem_of(saved)


def test_large_images_and_batches_are_counted_together(saved, monkeypatch):
    monkeypatch.setattr(version, "available_memory", lambda: 2 * 2**30)
    change_description(saved, preprocessing={"crop_size": 300})
    check_fits(saved, {"max_batch_size": 32})
    assert "needs about 10.9 GiB" in problem_of(saved, {"max_batch_size": 256})


def test_a_version_has_no_more_classes_than_its_weights_are_for(saved):
    change_description(saved, classes=list(map(str, range(200_000))))
    assert problem_of(saved) == "its weights are too small for the 200000 classes that it claims."


@pytest.mark.parametrize("changes", [{"preprocessing": {"crop_size": "x"}}, {"classes": None}, {"classes": 7}])
def test_a_description_of_nothing_is_told(changes, saved):
    change_description(saved, **changes)
    assert re.match(r"classifier.json does not describe a classifier|no readable classifier.json", problem_of(saved))


@pytest.mark.parametrize(
    "text", ["x: [" + "[]," * 10**6 + "]", "a: &a [x]\nb: [*a, *a]", "[" * 50_000, "\0", "a: b: c", ""]
)
def test_mlmodel_is_no_bomb(text, saved):
    (saved / "MLmodel").unlink()
    (saved / "MLmodel").write_text(text)
    if text:
        assert problem_of(saved) in ("its MLmodel is not what MLflow writes.", "its MLmodel cannot be read.")
    else:
        check_texts(saved)


@pytest.mark.parametrize("name", ["MLmodel", "data/classifier.json", "serving_input_example.json", "conda.yaml"])
def test_texts_have_a_bounded_size(name, saved):
    change(saved / name, lambda file: file.truncate(version.MAX_TEXT_BYTES + 2**20))
    assert problem_of(saved).endswith("has 17 MiB, over the limit of 16 MiB.")
