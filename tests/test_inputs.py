"""Every form of input, through mlflow.pyfunc, against probabilities computed straight from the network."""

import base64
import io
import os
import shutil
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import COLORS, upload
from mlflow.exceptions import MlflowException
from PIL import Image
from rounding import assert_same_probabilities

import mlflow_resnet
from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError
from mlflow_resnet.images.decode import MAX_IMAGE_BYTES
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.scoring.guard import REFUSED as REFUSED_OVER_HTTP
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


def test_of_several_columns_mlflow_passes_on_the_first(model, native, files, expect):
    frame = pd.DataFrame({"image": list(map(str, files)), "comment": "nice"})
    expect(model.predict(frame), files)
    with pytest.raises(InvalidOptionsError, match="columns 'image', 'comment'; pass the one with the images alone"):
        native.predict(frame)


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
    (pd.DataFrame({"left": ["a"], "right": ["b"]}), "columns 'left', 'right'; pass the one with the images alone"),
]


@pytest.mark.parametrize(("value", "message"), REFUSED)
def test_what_has_no_form_is_refused_as_a_whole(value, message, model, native):
    with pytest.raises(InvalidOptionsError, match=message):
        native.predict(value)
    if isinstance(value, np.ndarray):  # of the two columns, MLflow silently passes on the first
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
