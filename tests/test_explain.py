"""Heat maps as the command `explain` writes them, and as predict returns them."""

import base64
import io
import json
import re
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from helpers import COLORS, run_main, upload, write_picture
from mlflow.exceptions import MlflowException
from PIL import Image
from rounding import BF16, assert_same_rows, of_auto

from mlflow_resnet import explain
from mlflow_resnet.errors import InvalidDatasetError, OutputError
from mlflow_resnet.evaluation.explanations import overlays
from mlflow_resnet.images.index import SOURCE, TRANSFER, IndexRow, write_index
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options import ExplainOptions

MODEL = "models:/colors@champion"


@pytest.fixture
def folder(tmp_path):
    """Pictures in folders, two of them with the same name but for the suffix, and one that cannot be read."""
    for number, (name, color) in enumerate(COLORS.items()):
        write_picture(tmp_path / "pictures" / name / "1.jpg", color, number)
    write_picture(tmp_path / "pictures" / "grün" / "1.png", COLORS["007"], 9)
    write_picture(tmp_path / "pictures" / "0.png", COLORS["blue sky"], 10)
    (tmp_path / "pictures" / "007" / "bad.jpg").write_text("no picture")
    return tmp_path / "pictures"


def options(folder, **changes):
    given = {"model_uri": MODEL, "image_dir": str(folder), "output_dir": str(folder.parent / "out")}
    return ExplainOptions(**given | changes)


def read_index(path):
    text = {"image": str, "Scored Labels": str, "file": str, "error": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False, na_values={"confidence": ""})


def assert_explains(png, classifier, path):
    """That a PNG is the overlay of a file, but for a step of the colors: batches of other sizes round differently."""
    image = classifier.preprocessing.load(path.read_bytes())
    (expected,) = overlays(Predictor(classifier, "cpu"), image[None])
    np.testing.assert_allclose(np.asarray(Image.open(io.BytesIO(png))), expected, rtol=0, atol=3)


def test_every_image_gets_a_picture_and_a_row_that_says_what_the_model_says(trained, folder):
    result = explain(options(folder, batch_size=2))
    index = read_index(result.index)
    assert (result.images, result.unreadable) == (len(index), 1) == (6, 1)
    assert list(index.columns) == ["image", "Scored Labels", "confidence", "file", "error"]
    scored = mlflow.pyfunc.load_model(MODEL).predict(str(folder))
    assert list(index["image"]) == list(scored["image"])
    assert list(index["Scored Labels"]) == list(scored["Scored Labels"].fillna(""))
    best = scored.filter(like="Scored Probabilities_").max(axis=1)
    np.testing.assert_allclose(index["confidence"], best, rtol=0, atol=BF16)
    names = ["0.png", "007/1.png", "", "blue sky/1.png", "grün/1.png", "grün/1-2.png"]
    assert list(index["file"]) == names
    assert [error != "" for error in index["error"]] == [name == "" for name in names]
    assert "not an image" in index["error"][2]
    files = {path.relative_to(folder.parent / "out").as_posix() for path in (folder.parent / "out").rglob("[!.]*.*")}
    assert files == {"index.csv", *filter(None, names)}
    for image, name in zip(index["image"], names, strict=True):
        if name:
            assert_explains((folder.parent / "out" / name).read_bytes(), trained.classifier, folder / image)


def test_only_the_first_images(trained, folder):
    assert explain(options(folder, max_images=2)).images == 2
    assert len(list((folder.parent / "out").rglob("*.png"))) == 2


def test_images_in_s3(trained, folder, s3):
    uri = upload(s3, folder, "to-explain")
    there, here = (
        explain(options(folder, image_dir=at, output_dir=str(folder.parent / out)))
        for at, out in ((uri, "a"), (str(folder), "b"))
    )
    tables = [read_index(result.index).sort_values("image")["file"].tolist() for result in (there, here)]
    assert tables[0] == tables[1]
    assert read_index(there.index)["image"].str.startswith(uri).all()


@pytest.mark.parametrize("name", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg"])
def test_an_index_with_a_name_that_leads_out_of_the_folder_is_refused(trained, folder, name):
    source = str(folder / "0.png")
    (folder.parent / "index").mkdir()
    rows = [IndexRow(each, each.rpartition("/")[0], source, 1, 1, 1, "") for each in ("fine.jpg", name)]
    write_index(folder.parent / "index", rows, {SOURCE: "x", TRANSFER: "reference"})
    before = set(folder.parent.rglob("*"))
    with pytest.raises(InvalidDatasetError, match="is no index of ours: .* leads out of the directory"):
        explain(options(folder, image_dir=str(folder.parent / "index")))
    assert set(folder.parent.rglob("*")) == before


def test_folders_that_cannot_be_used(trained, folder, tmp_path):
    with pytest.raises(OutputError, match="is not empty"):  # found before the model is looked for
        explain(options(folder, output_dir=str(folder), model_uri="models:/nope/1"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "x.txt").touch()
    with pytest.raises(InvalidDatasetError, match="no images"):
        explain(options(tmp_path / "texts"))
    write_picture(folder / "0.png.jpg", (1, 2, 3), 1)
    write_picture(folder / "0.png.png" / "1.jpg", (1, 2, 3), 1)
    with pytest.raises(OutputError, match=r"0.png.png/1.png: cannot be written \(file exists\)"):
        explain(options(folder))
    assert not (tmp_path / "out").exists()


def test_the_command(trained, folder, tmp_path):
    result = run_main("explain", "--model-uri", MODEL, "--image-dir", folder, "--output-dir", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"6 images in {tmp_path / 'out' / 'index.csv'}, each that could be read with a heat map beside it",
        "1 of them could not be read; the column `error` says why",
    ]


@pytest.mark.parametrize("top_k", [0, 2])
def test_predict_adds_a_picture_before_the_error(top_k, trained, folder):
    model = mlflow.pyfunc.load_model(MODEL)
    plain, explained = (model.predict(str(folder), params={"top_k": top_k, "explain": on}) for on in (False, True))
    assert list(explained.columns) == [*plain.columns[:-1], "explanation", "error"]
    assert_same_rows(explained.drop(columns="explanation"), plain, of_auto())
    for image, text, error in explained[["image", "explanation", "error"]].itertuples(index=False):
        assert (text is None) == bool(error)
        if text:
            assert_explains(base64.b64decode(text, validate=True), trained.classifier, folder / image)


@pytest.mark.slow
def test_over_http_the_picture_is_text_in_strict_json(served, trained, folder):
    files = [folder / "0.png", folder / "007" / "bad.jpg", folder / "grün" / "1.jpg"]
    contents = [base64.b64encode(file.read_bytes()).decode() for file in files]
    body = {"inputs": contents, "params": {"explain": True}}
    answer = requests.post(f"{served}/invocations", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    rows = json.loads(answer.text, parse_constant=pytest.fail)["predictions"]
    assert [row["Scored Labels"] for row in rows] == ["blue sky", None, "grün"]
    assert rows[1]["explanation"] is None
    for row, file in zip(rows[::2], files[::2], strict=True):
        assert list(row)[-2:] == ["explanation", "error"]
        assert_explains(base64.b64decode(row["explanation"], validate=True), trained.classifier, file)


INSTALL_IT = "explain needs a package that is not installed; install it: pip install 'captum>=0.8'"


def test_without_captum_a_model_predicts_and_a_request_for_heat_maps_says_what_to_install(trained, folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    model, picture = mlflow.pyfunc.load_model(MODEL), str(folder / "0.png")
    assert list(model.predict(picture)["Scored Labels"]) == ["blue sky"]
    with pytest.raises(MlflowException, match=re.escape(INSTALL_IT)) as caught:
        model.predict(picture, params={"explain": True})
    assert caught.value.get_http_status_code() == 400


def test_without_captum_the_command_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    result = run_main("explain", "--model-uri", "models:/nope/1", "--image-dir", folder, "--output-dir", "out")
    assert (result.returncode, result.stderr.splitlines()[-1]) == (2, f"mlflow-resnet: {INSTALL_IT}")
