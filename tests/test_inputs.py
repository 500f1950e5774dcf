"""Every form of input, through mlflow.pyfunc, against probabilities computed straight from the network."""

import base64
import io
import json
import os
import shutil
from pathlib import Path

import mlflow
import mlflow.cli
import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from helpers import COLORS, upload
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema
from PIL import Image
from rounding import assert_same_probabilities

import mlflow_resnet
from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.flavor import default_signature, save_model
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.over_http.guard import REFUSED as REFUSED_OVER_HTTP
from mlflow_resnet.scoring.pyfunc import ScoringModel

pytestmark = pytest.mark.networks

CLASSES = list(COLORS)
PROBABILITIES = [f"Scored Probabilities_{name}" for name in CLASSES]
COLUMNS = ["image", "Scored Labels", *PROBABILITIES, "error"]


@pytest.fixture(scope="module")
def model(trained):
    return mlflow.pyfunc.load_model(trained.model_uri, model_config={"precision": "fp32"})


@pytest.fixture(scope="module")
def native(model):
    """Without MLflow's checks of the input, which refuse some forms and shorten others."""
    return ScoringModel(Predictor(model.get_raw_model(), precision="fp32"))


@pytest.fixture(scope="module")
def classifier(trained):
    return mlflow_resnet.load_model(trained.model_uri)


@pytest.fixture(scope="module")
def files(images):
    return sorted((images / "val").rglob("*.jpg"))


@pytest.fixture(scope="module")
def expect(classifier):
    """Asserts that a scored frame holds, in order, what the network says of these files. None: an unread image."""

    def check(frame, files):
        assert list(frame.columns) == COLUMNS
        assert len(frame) == len(files)
        read = np.array([file is not None for file in files])
        assert list(frame["error"] == "") == list(read)
        assert frame.loc[~read, "Scored Labels"].isna().all()
        assert np.isnan(frame.loc[~read, PROBABILITIES].to_numpy(float)).all()
        expected = probabilities(classifier, [file for file in files if file is not None])
        assert_same_probabilities(frame.loc[read, PROBABILITIES], expected)
        assert list(frame.loc[read, "Scored Labels"]) == [CLASSES[i] for i in expected.argmax(axis=1)]

    return check


def encoded(file, prefix=""):
    return prefix + base64.b64encode(file.read_bytes()).decode()


def probabilities(classifier, files):
    images = torch.stack([classifier.preprocessing.load(file.read_bytes()) for file in files]).float() / 255
    mean, std = (torch.tensor(getattr(classifier.preprocessing, name)).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return classifier.network((images - mean) / std).softmax(dim=1).numpy()


def test_the_expected_probabilities_tell_the_pictures_apart(classifier, files):
    expected = probabilities(classifier, files)
    assert len(np.unique(expected[:, 0])) == len(files) == 12
    assert [CLASSES[i] for i in expected.argmax(axis=1)] == [file.parent.name for file in files]


ONE_IMAGE = {
    "file": str,
    "bytes": Path.read_bytes,
    "base64": encoded,
    "data URI": lambda file: encoded(file, "data:image/jpeg;base64,"),
    "base64 as bytes with line breaks": lambda file: base64.encodebytes(file.read_bytes()),
    "base64 with CRLF": lambda file: base64.encodebytes(file.read_bytes()).decode().replace("\n", "\r\n"),
    "data URI as bytes": lambda file: encoded(file, "data:image/png;base64,").encode(),
}
IN_TABLES_ONLY = {  # MLflow refuses these in a list
    "Path": Path,
    "bytearray": lambda file: bytearray(file.read_bytes()),
    "memoryview": lambda file: memoryview(file.read_bytes()),
}
CONTAINERS = {
    "list": list,
    "array": lambda values: np.array(values, dtype=object),
    "Series": lambda values: pd.Series(values, name="picture"),
    "DataFrame": lambda values: pd.DataFrame({"any name": values}),
    "DataFrame with another index": lambda values: pd.DataFrame({"image": values}, index=range(7, 7 + len(values))),
    "dict": lambda values: {"image": values},
    "records": lambda values: [{"image": value} for value in values],
}


@pytest.mark.parametrize("form", ONE_IMAGE)
def test_one_image(form, model, files, expect):
    expect(model.predict(ONE_IMAGE[form](files[5])), [files[5]])


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", ONE_IMAGE)
def test_many_images(form, container, model, files, expect):
    shuffled = files[::-1]
    expect(model.predict(CONTAINERS[container]([ONE_IMAGE[form](file) for file in shuffled])), shuffled)


@pytest.mark.parametrize("form", IN_TABLES_ONLY)
def test_python_objects_in_a_table_and_in_the_native_model(form, model, native, files, expect):
    values = [IN_TABLES_ONLY[form](file) for file in files]
    expect(model.predict(pd.DataFrame({"image": pd.Series(values, dtype=object)})), files)
    expect(native.predict(values), files)
    expect(native.predict(values[0]), files[:1])


@pytest.mark.parametrize("dtype", ["string", "string[python]", object])
def test_every_kind_of_text_of_pandas_and_numpy(dtype, model, files, expect):
    paths = pd.Series(map(str, files), dtype=dtype)
    expect(model.predict(pd.DataFrame({"path": paths})), files)
    expect(model.predict(paths.to_numpy(str)), files)


def test_a_directory(model, native, images, files, expect):
    folder = images / "val"
    scored = model.predict(str(folder))
    expect(scored, files)
    assert list(scored["image"]) == list(map(str, files))
    expect(native.predict(folder), files)  # MLflow itself refuses a Path


def test_files_directories_bytes_and_base64_in_one_list(model, files, expect):
    scored = model.predict([str(files[-1]), str(files[0].parent), files[3].read_bytes(), encoded(files[6])])
    expect(scored, [files[-1], *files[:4], files[3], files[6]])
    assert list(scored["image"]) == [str(files[-1]), *map(str, files[:4]), "image[2]", "image[3]"]


def test_a_prefix_and_an_object_in_s3(model, images, files, expect, s3):
    uri = upload(s3, images / "val", "val")
    scored = model.predict(uri)
    expect(scored, files)
    assert list(scored["image"]) == [f"{uri}/{file.parent.name}/{file.name}" for file in files]
    scored = model.predict([str(files[0]), f"{uri}/grün/02.jpg", f"{uri}/nothing-here"])
    expect(scored, [files[0], files[10], None])
    assert scored["image"][1] == f"{uri}/grün/02.jpg"
    assert "s3://bucket/val/nothing-here" in scored["error"][2]


TABLES_WITH_OTHER_COLUMNS = {
    "id before the image": lambda values: pd.DataFrame({"id": range(len(values)), "image": values}),
    "label before the path": lambda values: pd.DataFrame({"label": "cat", "Image Path": values}),
    "Spark's binary files": lambda values: pd.DataFrame({"path": "a.jpg", "length": 7, "content": values}),
    "image_id and file_name": lambda values: pd.DataFrame({"image": range(len(values)), "file_name": values}),
    "comment after the image": lambda values: pd.DataFrame({"image": values, "comment": "nice"}),
    "two columns of images": lambda values: pd.DataFrame({"filename": "a.jpg", "img": values}),
    "dict": lambda values: {"id": list(range(len(values))), "image": values},
    "records": lambda values: [{"id": number, "image": value} for number, value in enumerate(values)],
    "Arrow types": lambda values: pd.DataFrame({"id": "x", "image": values}).convert_dtypes(dtype_backend="pyarrow"),
    "categories": lambda values: pd.DataFrame({"id": "x", "path": pd.Categorical(values)}),
}


@pytest.mark.parametrize("table", TABLES_WITH_OTHER_COLUMNS)
def test_the_column_of_images_is_found_by_its_name_wherever_it_stands(table, model, native, files, expect):
    for form in (str, Path.read_bytes, encoded):
        values = TABLES_WITH_OTHER_COLUMNS[table]([form(file) for file in files])
        expect(model.predict(values), files)
    expect(native.predict(values), files)


@pytest.mark.parametrize(
    ("table", "named"),
    [
        (pd.DataFrame({"left": ["a"], "right": ["b"]}), "columns 'left', 'right'"),
        (pd.DataFrame({"image": [1, 2], "id": ["a", "b"]}), "columns 'image', 'id'"),
        (pd.DataFrame([["a", "b"]], columns=["image", "Image"]), "columns 'image', 'Image'"),
        (pd.DataFrame(index=[1, 2]), "a table without columns"),
        ([["7", "a.jpg"], ["8", "b.jpg"]], "rows of several values without names"),
        (np.array([["7", "a.jpg"]]), "rows of several values without names"),
    ],
)
def test_a_table_that_does_not_say_where_its_images_are_is_refused_in_one_line(table, named, model, native):
    for predict in (model.predict, native.predict):
        with pytest.raises(InvalidOptionsError, match=f"^{named}; pass the ") as caught:
            predict(table)
        assert "\n" not in caught.value.message


def test_each_row_of_a_table_is_one_row_also_where_a_cell_is_a_folder(model, native, files, expect, monkeypatch):
    monkeypatch.chdir(files[0].parent.parent)
    labels = [file.parent.name for file in files]
    table = pd.DataFrame({"label": labels, "image": list(map(str, files))})
    expect(model.predict(table), files)
    for folders in (table["label"], table[["label"]], {"image": labels}, [{"image": label} for label in labels]):
        for predict in (model.predict, native.predict):
            scored = predict(folders)
            assert set(scored["error"]) == {
                "a folder; each row of a table is one image, so pass folders alone or in a list"
            }
            assert list(scored["image"]) == labels


def test_each_row_of_a_table_is_one_object_in_s3(model, images, files, expect, s3):
    uri = upload(s3, images / "val", "val")
    table = pd.DataFrame({"id": [1, 2, 3], "uri": [f"{uri}/grün/02.jpg", f"{uri}/grün", f"{uri}/nothing"]})
    scored = model.predict(table)
    expect(scored, [files[10], None, None])
    assert list(scored["image"]) == list(table["uri"])


def test_rows_of_a_hugging_face_data_set(model, files, expect):
    rows = [{"label": 0, "image": {"bytes": file.read_bytes(), "path": file.name}} for file in files[:2]]
    rows += [{"label": 1, "image": {"bytes": None, "path": str(files[2])}}, {"label": 1, "image": None}]
    expect(model.predict(pd.DataFrame(rows)), [*files[:3], None])
    expect(model.predict(rows), [*files[:3], None])


def test_a_table_of_numbers_is_refused_and_one_of_nothing_has_rows(model, native):
    for predict in (model.predict, native.predict):
        with pytest.raises(InvalidOptionsError, match="^a column of int64 numbers; pass encoded image files as bytes"):
            predict(pd.DataFrame({"image": [1, 2]}))
        scored = predict(pd.DataFrame({"id": [1, 2], "image": [None, float("nan")]}))
        assert list(scored["error"]) == ["no value; expected bytes, base64 or a path"] * 2


def test_a_signature_of_the_users_own_says_which_column(classifier, files, expect, tmp_path):
    signature = ModelSignature(Schema([ColSpec("binary", "picture_of_it")]), default_signature(tuple(CLASSES)).outputs)
    table = pd.DataFrame({"image": "other.jpg", "picture_of_it": [file.read_bytes() for file in files]})
    save_model(classifier, tmp_path / "model", signature=signature, input_example=table[:1])
    loaded = mlflow.pyfunc.load_model(str(tmp_path / "model"), model_config={"precision": "fp32"})
    expect(loaded.predict(table), files)


def too_many_pixels():
    file = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("/nope.jpg", "no such file"),
        ("http://127.0.0.1:9/x.jpg", "URLs are not opened"),
        ("data:image/png;base64,@@@@", "the data URI holds no valid base64"),
        ("a\0b", "not a valid path"),
        ("x" * 5000, "too long"),
        ("", "no such file"),
        (None, "no value"),
        (float("nan"), "no value"),
        (7, "a value of type int"),
        (b"", "empty file"),
        (b"just text", "not an image of a supported format"),
        (b"\xff\xd8\xff\xe0 half a JPEG", "truncated or damaged"),
        (too_many_pixels(), "12000x12000 is 144 megapixels, over the limit of 64"),
    ],
)
def test_a_bad_image_costs_only_its_own_row(bad, reason, model, files, expect):
    scored = model.predict([str(files[0]), bad, files[1].read_bytes()])
    expect(scored, [files[0], None, files[1]])
    assert reason in scored["error"][1]
    assert "\n" not in scored["error"][1]


def test_an_empty_directory_is_a_row_in_a_list_and_an_error_alone(model, native, files, expect, tmp_path):
    scored = model.predict([str(tmp_path), str(files[0])])
    expect(scored, [None, files[0]])
    assert "empty directory" in scored["error"][0]
    with pytest.raises(InvalidDatasetError, match="empty directory"):
        native.predict(tmp_path)


REFUSED = [
    (np.zeros((2, 8, 8, 3), np.uint8), "an array of uint8 numbers; pass encoded image files as bytes, or their paths"),
    (np.zeros((2, 2)), "an array of float64 numbers"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_has_no_form_is_refused_as_a_whole(value, message, model, native):
    with pytest.raises(InvalidOptionsError, match=message):
        native.predict(value)
    with pytest.raises(MlflowException, match="schema"):
        model.predict(value)


@pytest.mark.parametrize("nothing", [np.array([], dtype=str), pd.DataFrame({"image": pd.Series([], dtype=object)})])
def test_no_images_give_no_rows(nothing, model, native):
    scored = model.predict(nothing)
    assert list(scored.columns) == COLUMNS
    assert len(scored) == 0
    assert list(native.predict([]).columns) == COLUMNS  # MLflow refuses an empty list


def test_a_file_name_that_is_not_utf_8(model, native, files, expect, tmp_path):
    shutil.copy(files[0], os.fsencode(tmp_path) + b"/caf\xe9.jpg")
    scored = model.predict(str(tmp_path))
    expect(scored, [files[0]])
    assert scored["image"][0] == f"{tmp_path}/caf\\xe9.jpg"
    expect(native.predict(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")), [files[0]])


@pytest.mark.parametrize("batch_size", [0, 1, 5, 12, 1000])
def test_batch_size_changes_nothing(batch_size, model, files, expect):
    expect(model.predict(list(map(str, files)), params={"batch_size": batch_size}), files)


@pytest.mark.parametrize("wrap", [bytes, base64.b64encode, lambda content: base64.b64encode(content).decode()])
def test_the_largest_image_and_one_byte_more(wrap, model, files, expect):
    content = files[0].read_bytes()
    largest = content + bytes(MAX_IMAGE_BYTES - len(content))  # what follows a JPEG's end is ignored
    scored = model.predict([wrap(largest), wrap(largest + b"\0"), wrap(content)])
    expect(scored, [files[0], None, files[0]])
    assert scored["error"][1] == "over the limit of 64 MiB for one image"


def test_another_server_can_have_paths_refused_too(native, files, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_SERVING", "true")
    scored = native.predict([str(files[0]), files[0].read_bytes()])
    assert scored["error"].tolist() == [REFUSED_OVER_HTTP, ""]


def predict_by_command(model_uri, table, folder):
    """The rows of `mlflow models predict -m URI -i table.csv -t csv --env-manager local`."""
    table.to_csv(folder / "table.csv", index=False)
    command = ["models", "predict", "-m", model_uri, "-i", str(folder / "table.csv"), "-t", "csv"]
    done = CliRunner().invoke(
        mlflow.cli.cli, [*command, "-o", str(folder / "scored.json"), "--env-manager", "local"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return pd.DataFrame(json.loads((folder / "scored.json").read_text())["predictions"])


def test_a_table_for_mlflow_models_predict(trained, images, files, tmp_path, monkeypatch):
    labels = [file.parent.name for file in files]
    paths = [str(file.relative_to(images)) for file in files]
    table = pd.DataFrame({"label": labels, "image": paths})
    scored = predict_by_command(trained.model_uri, table, tmp_path)
    assert set(scored["error"]) == {
        f"{REFUSED_OVER_HTTP}; for files of your own, set MLFLOW_RESNET_ALLOWED_ROOT to their folder, "
        "or use `mlflow-resnet score`"
    }
    monkeypatch.setenv("MLFLOW_RESNET_ALLOWED_ROOT", str(images))
    scored = predict_by_command(trained.model_uri, table, tmp_path)
    assert list(scored["Scored Labels"]) == labels
    table["image"] = [encoded(file) for file in files]
    monkeypatch.delenv("MLFLOW_RESNET_ALLOWED_ROOT")
    assert list(predict_by_command(trained.model_uri, table, tmp_path)["Scored Labels"]) == labels
