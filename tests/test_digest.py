"""Whoever can write artifacts changes what decides a model's answers: every loader refuses, whatever files claim."""

import json
import os
import shutil
from functools import partial
from pathlib import Path

import mlflow
import pytest
import torch
import yaml
from helpers import COLORS
from mlflow import MlflowClient

import mlflow_resnet
from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidModelError, MlflowResnetError, TamperedModelError, TamperedWeightsError
from mlflow_resnet.model import weights
from mlflow_resnet.model.storage import (
    compute_model_sha256,
    hash_file,
    read_description,
    read_exports,
    read_mlmodel_fields,
    save_classifier,
    write_export,
)
from mlflow_resnet.options import (
    ChampionOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    PromoteOptions,
    ScoreOptions,
    ShadowOptions,
)
from mlflow_resnet.registry import evidence
from mlflow_resnet.registry.names import is_evidence_key
from mlflow_resnet.serving.version import load_version
from mlflow_resnet.verbs import explain as explaining
from mlflow_resnet.verbs import export as exporting
from mlflow_resnet.verbs import shadow as shadowing
from mlflow_resnet.verbs.champion import champion
from mlflow_resnet.verbs.evaluate import evaluate
from mlflow_resnet.verbs.promote import promote
from mlflow_resnet.verbs.score import score

CLASSES = tuple(COLORS)
NAME = "digested colors"
CHAMPION = f"models:/{NAME}@champion"


def new_classifier(seed):
    return mlflow_resnet.new_classifier("resnet18", CLASSES, mlflow_resnet.Preprocessing(36, 32), random_seed=seed)


@pytest.fixture(scope="module")
def logged(tracking):
    """Version 1, which is champion, and version 2, of a run each; what belongs to them by their numbers."""
    found = {}
    for number in (1, 2):
        with mlflow.start_run():
            info = mlflow_resnet.log_model(new_classifier(number), name="model", registered_model_name=NAME)
        found[number] = MlflowClient().get_logged_model(info.model_id)
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")
    yield found
    MlflowClient().delete_registered_model(NAME)


def folder_of(model):
    return Path(model.artifact_location.removeprefix("file://"))


@pytest.fixture
def stored(logged, tmp_path):
    """The folder of version 1 in the store of artifacts, which is as it was afterwards."""
    folder = folder_of(logged[1])
    shutil.copytree(folder, tmp_path / "kept")
    yield folder
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "kept", folder)


def describe(folder, **changes):
    """Changes fields of classifier.json."""
    path = folder / "data" / "classifier.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_mlmodel(folder, change):
    path = folder / "MLmodel"
    fields = yaml.safe_load(path.read_text())
    change(fields)
    path.write_text(yaml.safe_dump(fields))


def sign(folder, part, change):
    """Changes a part of the signature."""

    def changed(fields):
        columns = json.loads(fields["signature"][part])
        fields["signature"][part] = json.dumps(change(columns))

    change_mlmodel(folder, changed)


def reverse_outputs(folder):
    sign(folder, "outputs", lambda columns: [*columns[:2], *columns[-2:1:-1], columns[-1]])


def reverse_classes_everywhere(folder):
    describe(folder, classes=CLASSES[::-1])
    reverse_outputs(folder)


def add_export(folder):
    export = folder / "data" / "onnx"
    export.mkdir()
    (export / "model.onnx").write_bytes(b"\0")
    write_export(export, "onnx", "fp32", "00")


def save_another(folder):
    """Weights and description of a network that takes every picture for another."""
    save_classifier(new_classifier(7), folder / "data")


def default_resolution(folder):
    sign(folder, "params", lambda params: [p | ({"default": 8} if p["name"] == "resolution" else {}) for p in params])


def configure(folder, **changes):
    change_mlmodel(folder, lambda fields: fields["flavors"]["python_function"]["config"].update(changes))


def claim_consistency(folder):
    """MLmodel says the digest of what is there now, as whoever can write the rest can have it say."""
    digest = compute_model_sha256(
        read_mlmodel_fields(folder), read_description(folder / "data"), read_exports(folder / "data")
    )
    change_mlmodel(folder, lambda fields: fields["flavors"]["mlflow_resnet"].update(model_sha256=digest))


TAMPERINGS = {
    "classes in another order": reverse_classes_everywhere,
    "classes in another order, the signature as it was": partial(describe, classes=CLASSES[::-1]),
    "columns of the signature in another order": reverse_outputs,
    "another temperature": partial(describe, temperature=50.0),
    "another preprocessing": partial(
        describe, preprocessing={"resize_size": 8, "crop_size": 8, "mean": [9, 9, 9], "std": [1, 1, 1]}
    ),
    "a precision that passed a check": partial(
        describe, precision_checks={"bf16": {"images": 9, "label_agreement": 1.0, "accuracy_change": 0.0}}
    ),
    "weights and description of another model": save_another,
    "an export that was never made of it": add_export,
    "another default of a param": default_resolution,
    "another backend": partial(configure, backend="onnx"),
    "another precision": partial(configure, precision="bf16"),
}


def downloaded(folder):
    """What `mlflow models serve` and Spark's workers load: a folder that MLflow has downloaded."""
    return mlflow.pyfunc.load_model(mlflow.artifacts.download_artifacts(CHAMPION, dst_path=folder))


@pytest.fixture
def loaders(images, tmp_path):
    """All that loads a model, by its name."""
    to_score, out = str(images / "val"), str(tmp_path / "out")
    of_model = {"model_uri": CHAMPION, "image_dir": to_score}
    return {
        "load_model": lambda: mlflow_resnet.load_model(CHAMPION),
        "load_predictor": lambda: flavor.load_predictor(CHAMPION),
        "pyfunc": lambda: mlflow.pyfunc.load_model(CHAMPION),
        "downloaded": lambda: downloaded(tmp_path),
        "serve": lambda: load_version(CHAMPION),
        "score": lambda: score(ScoreOptions(**of_model, output=f"{out}.csv")),
        "evaluate": lambda: evaluate(EvaluateOptions(**of_model)),
        "evaluator": lambda: mlflow.models.evaluate(
            CHAMPION, mlflow.data.from_image_directory(to_score), model_type="classifier", evaluators="resnet"
        ),
        "promote": lambda: promote(PromoteOptions(**of_model)),
        "promote, as the champion": lambda: promote(PromoteOptions(**of_model | {"model_uri": f"models:/{NAME}/2"})),
        "shadow": lambda: shadowing.shadow(
            ShadowOptions(champion=f"models:/{NAME}/2", challenger=CHAMPION, image_dir=to_score)
        ),
        "explain": lambda: explaining.explain(ExplainOptions(**of_model, output_dir=out)),
        "export": lambda: exporting.export(ExportOptions(**of_model, format="onnx", output_dir=out)),
        "Ray": lambda: mlflow_resnet.ScoreImages(CHAMPION),
        "train --weights": lambda: weights.load_starting_weights(new_classifier(1), CHAMPION, mlflow_resnet.load_model),
    }


FEW = ("load_model", "pyfunc", "serve")  # the others are all tried with a few tamperings, and in the slow part with all


@pytest.mark.parametrize(
    ("tampering", "names"),
    [
        *((tampering, FEW) for tampering in TAMPERINGS),
        ("classes in another order", ()),
        *(pytest.param(tampering, (), marks=[pytest.mark.slow, pytest.mark.thorough]) for tampering in TAMPERINGS),
    ],
)
def test_what_was_tampered_with_is_refused_by_every_loader(tampering, names, loaders, stored):
    TAMPERINGS[tampering](stored)
    claim_consistency(stored)
    for name in names or loaders:
        with pytest.raises(MlflowResnetError) as caught:
            loaders[name]()
        said = caught.value.message
        assert "model_sha256" in said or "its signature has the classes" in said, name
        assert "\n" not in said
    assert int(MlflowClient().get_registered_model(NAME).aliases["champion"]) == 1
    assert not MlflowClient().get_model_version(NAME, "2").tags


URIS = ("models:/{name}@champion", "models:/{name}/1", "models:/{model_id}", "runs:/{run_id}/model")


@pytest.mark.parametrize("uri", URIS)
@pytest.mark.parametrize("load", [mlflow_resnet.load_model, mlflow.pyfunc.load_model, "folder"])
def test_whatever_a_model_is_called_by_it_is_compared_with_what_was_logged(load, uri, logged, stored, tmp_path):
    uri = uri.format(name=NAME, model_id=logged[1].model_id, run_id=logged[1].source_run_id)

    def loaded():
        return downloaded_from(uri) if load == "folder" else load(uri)

    def downloaded_from(uri):
        place = tmp_path / str(len(os.listdir(tmp_path)))
        place.mkdir()
        return mlflow_resnet.load_model(mlflow.artifacts.download_artifacts(uri, dst_path=place))

    loaded()
    save_another(stored)
    claim_consistency(stored)
    with pytest.raises(TamperedModelError, match=f"but its logged model {logged[1].model_id} has"):
        loaded()


def test_the_whole_folder_of_another_model_is_refused(logged, stored):
    """Even MLmodel names the other one; `registered_model_meta`, planted too, is written anew by MLflow's client."""
    shutil.rmtree(stored)
    shutil.copytree(folder_of(logged[2]), stored)
    meta = {"model_name": NAME, "model_version": "2"}
    (stored / "registered_model_meta").write_text(yaml.safe_dump(meta))
    for load in (mlflow_resnet.load_model, mlflow.pyfunc.load_model, load_version):
        with pytest.raises(TamperedModelError, match=logged[1].model_id):
            load(CHAMPION)
    for uri in (f"models:/{logged[1].model_id}", f"runs:/{logged[1].source_run_id}/model"):
        with pytest.raises(TamperedModelError, match=logged[1].model_id):
            mlflow_resnet.load_model(uri)


def test_an_alias_that_moves_meanwhile_changes_nothing(logged):
    known = flavor.open_verified_model(CHAMPION)
    with known as stored:
        MlflowClient().set_registered_model_alias(NAME, "champion", "2")
        assert stored.model_id == logged[1].model_id
    MlflowClient().set_registered_model_alias(NAME, "champion", "1")


def test_a_copy_of_a_version_is_compared_too(logged, stored):
    copied = MlflowClient().copy_model_version(f"models:/{NAME}/1", "copied digests")
    uri = f"models:/{copied.name}/{copied.version}"
    assert flavor.load_predictor(uri).model_id == logged[1].model_id
    describe(stored, temperature=3.0)
    claim_consistency(stored)
    for load in (mlflow_resnet.load_model, mlflow.pyfunc.load_model, load_version):
        with pytest.raises(TamperedModelError):
            load(uri)


def test_what_is_loaded_carries_the_digest_that_was_logged(logged):
    digest = logged[1].params["model_sha256"]
    assert flavor.load_predictor(CHAMPION).model_sha256 == digest
    assert load_version(CHAMPION).facts()["model_sha256"] == digest
    for name in ("batch_size", "max_batch_size", "device"):  # these decide no answer
        assert name in flavor.DEFAULT_MODEL_CONFIG


@pytest.fixture
def alone(logged, tmp_path, monkeypatch):
    """A folder with version 1, where no server can be asked, as in a container."""
    path = Path(mlflow.artifacts.download_artifacts(CHAMPION, dst_path=tmp_path / "alone"))
    before = mlflow.get_tracking_uri()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(None)
    yield path
    mlflow.set_tracking_uri(before)


@pytest.mark.parametrize("load", [mlflow_resnet.load_model, mlflow.pyfunc.load_model])
def test_without_a_server_a_folder_is_compared_with_its_own_mlmodel(load, alone, tmp_path):
    load(str(alone))
    assert not (tmp_path / "mlflow.db").exists()  # nobody was asked
    describe(alone, classes=CLASSES[::-1])
    with pytest.raises(TamperedModelError, match="but its MLmodel has"):
        load(str(alone))


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "sqlite:///empty.db"])
def test_a_server_that_is_silent_or_knows_nothing_does_not_stop_a_container(uri, alone, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    (alone.parent.parent / "empty.db").touch()
    mlflow.set_tracking_uri(uri)
    assert mlflow_resnet.load_model(str(alone)).classes == CLASSES
    assert ("loaded without asking what its server knows" in capsys.readouterr().err) == uri.startswith("http")


def test_what_a_folder_says_of_itself_must_be_readable(alone):
    (alone / "registered_model_meta").write_text("{")
    with pytest.raises(InvalidModelError, match="registered_model_meta: cannot be read"):
        mlflow.pyfunc.load_model(str(alone))


def test_a_uri_of_another_registry_is_refused(logged):
    with pytest.raises(InvalidModelError, match="set MLFLOW_REGISTRY_URI"):
        mlflow_resnet.load_model("models://other@databricks/colors/1")


# models that were logged before there was one digest


def save_as_before(classifier, folder):
    """A model as it was saved then; returns its params of then."""
    flavor.save_model(classifier, folder)
    params = {"weights_sha256": hash_file(folder / "data" / "model.safetensors")}

    def older(fields):
        ours = fields["flavors"]["mlflow_resnet"]
        del ours["model_sha256"]
        ours.update(params)

    change_mlmodel(folder, older)
    return params


@pytest.fixture
def older(tracking, tmp_path):
    """The URI of a version that was logged then, and its folder."""
    params = save_as_before(new_classifier(5), tmp_path / "older")
    client = MlflowClient()
    model = client.create_logged_model("0", "older", params=params)
    change_mlmodel(tmp_path / "older", lambda fields: fields.update(model_id=model.model_id))
    client.log_model_artifacts(model.model_id, str(tmp_path / "older"))
    client.finalize_logged_model(model.model_id, "READY")
    version = mlflow.register_model(f"models:/{model.model_id}", "older colors")
    yield f"models:/older colors/{version.version}", folder_of(client.get_logged_model(model.model_id))
    client.delete_registered_model("older colors")


def test_a_model_of_before_loads_everywhere(older, images):
    uri, _ = older
    assert torch.equal(mlflow_resnet.load_model(uri).network.fc.weight, new_classifier(5).network.fc.weight)
    assert mlflow.pyfunc.load_model(uri).get_raw_model().classes == CLASSES
    assert len(load_version(uri).facts()["model_sha256"]) == 64
    promote(PromoteOptions(model_uri=uri, image_dir=str(images / "val")))
    assert (
        champion(ChampionOptions(name="older colors")).evidence.model_sha256 == flavor.load_predictor(uri).model_sha256
    )


def test_exchanged_weights_of_a_model_of_before_are_refused(older):
    uri, folder = older
    save_another(folder)
    for load in (mlflow_resnet.load_model, mlflow.pyfunc.load_model, load_version):
        with pytest.raises(TamperedWeightsError):
            load(uri)


def test_an_export_added_to_a_model_of_before_is_refused(older):
    uri, folder = older
    add_export(folder)
    for load in (mlflow_resnet.load_model, mlflow.pyfunc.load_model, load_version):
        with pytest.raises(TamperedWeightsError, match="saved with no exports"):
            load(uri)


# evidence


def test_evidence_speaks_of_what_was_loaded_and_of_the_logged_model(logged, images):
    options = PromoteOptions(model_uri=f"models:/{NAME}/2", image_dir=str(images / "val"), measure_only=True)
    promote(options)
    (text,) = [text for tag, text in MlflowClient().get_model_version(NAME, "2").tags.items() if is_evidence_key(tag)]
    found = evidence.from_text(text)
    assert (found.model_id, found.model_sha256) == (logged[2].model_id, logged[2].params["model_sha256"])
    assert found.champion.model_sha256 == logged[1].params["model_sha256"]


def test_weights_that_the_logged_model_does_not_have_are_never_measured(tracking, images, tmp_path):
    """A trainer logs good weights under the digest of others, has them measured, and exchanges the files then."""
    flavor.save_model(new_classifier(1), tmp_path / "good")
    flavor.save_model(new_classifier(2), tmp_path / "bad")
    digest = read_mlmodel_fields(tmp_path / "bad")["flavors"]["mlflow_resnet"]["model_sha256"]
    client = MlflowClient()
    model = client.create_logged_model("0", "evil", params={"model_sha256": digest})
    change_mlmodel(tmp_path / "good", lambda fields: fields.update(model_id=model.model_id))
    client.log_model_artifacts(model.model_id, str(tmp_path / "good"))
    client.finalize_logged_model(model.model_id, "READY")
    version = mlflow.register_model(f"models:/{model.model_id}", "evil colors")
    options = PromoteOptions(model_uri="models:/evil colors/1", image_dir=str(images / "val"))
    with pytest.raises(TamperedModelError, match=digest):
        promote(options)
    assert not client.get_model_version(version.name, version.version).tags


def test_a_digest_that_somebody_logged_before_is_told(tracking):
    model = MlflowClient().create_logged_model("0", "taken", params={"model_sha256": "00"})
    with pytest.raises(TamperedModelError, match="but it has 00"):
        flavor.log_model_sha256(model, "11")


def test_a_signature_of_other_classes_is_not_saved(tmp_path):
    signature = flavor.default_signature(CLASSES[::-1])
    with pytest.raises(InvalidModelError, match="its signature has the classes"):
        flavor.save_model(new_classifier(1), tmp_path / "model", signature=signature)
