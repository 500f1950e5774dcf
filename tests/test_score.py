"""Scoring directories to files, with `score` and the command line."""

import json
import os
import shutil
import signal
import subprocess
import sys

import mlflow
import numpy as np
import pandas as pd
import pytest
from helpers import COLORS, ROOT, run_main, start_cli, upload, wait_for, write_picture
from rounding import assert_same_probabilities, assert_same_rows, of_auto

from mlflow_resnet.errors import InvalidDatasetError, InvalidModelError, InvalidOptionsError, OutputError
from mlflow_resnet.options import ScoreOptions
from mlflow_resnet.scoring.to_file import batch, parts
from mlflow_resnet.verbs.score import score

pytestmark = pytest.mark.networks

PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]
TEXT = {"image": str, "Scored Labels": str, "error": str}
READERS = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(
        path, dtype=TEXT, keep_default_na=False, na_values=dict.fromkeys(PROBABILITIES, "")
    ),
    ".jsonl": lambda path: pd.DataFrame(map(json.loads, path.read_text(encoding="utf-8").splitlines())),
}
MODEL = "models:/colors@champion"


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory):
    """The validation images, and among them three that cannot be read and names that need care."""
    folder = tmp_path_factory.mktemp("to score") / "val"
    shutil.copytree(images / "val", folder)
    (folder / "blue sky" / "01a text.jpg").write_text("just text")
    (folder / "blue sky" / "01b empty.jpg").write_bytes(b"")
    (folder / "blue sky" / '01c "half", ; cut\n.jpg').write_bytes((folder / "007" / "00.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not an image, by its name")
    return folder


@pytest.fixture(scope="module")
def expected(trained, folder):
    return mlflow.pyfunc.load_model(trained.model_uri).predict(str(folder))


def options(folder, output, **changes):
    return ScoreOptions(**{"model_uri": MODEL, "image_dir": str(folder), "output": str(output)} | changes)


@pytest.mark.parametrize("suffix", READERS)
def test_the_file_holds_what_predict_gives_row_by_row(suffix, trained, folder, expected, tmp_path):
    scored = score(options(folder, tmp_path / f"new folder/scored{suffix}"))
    read = READERS[suffix](tmp_path / f"new folder/scored{suffix}")
    assert list(read.columns) == ["image", "Scored Labels", *PROBABILITIES, "error"]
    assert list(read["image"]) == list(expected["image"])
    assert len(read) == scored.rows == 15
    assert list(read["error"]) == list(expected["error"])
    assert [name.rpartition("/")[2][:3] for name in read.loc[read["error"] != "", "image"]] == ["01a", "01b", "01c"]
    assert scored.unreadable == 3
    unread = read[read["error"] != ""]
    assert unread[PROBABILITIES].isna().all(axis=None)
    assert unread["Scored Labels"].replace("", None).isna().all()
    labels = expected["Scored Labels"]
    assert list(read["Scored Labels"][labels.notna()]) == list(labels.dropna())
    assert {"007", "blue sky", "grün"} == set(labels.dropna())
    assert_same_probabilities(read[PROBABILITIES], expected[PROBABILITIES], of_auto())
    assert os.listdir(tmp_path / "new folder") == [f"scored{suffix}"]


def test_the_command_prints_what_it_wrote(trained, folder, tmp_path):
    result = run_main("score", "--model-uri", MODEL, "--image-dir", folder, "--output", tmp_path / "scored.csv")
    assert result.returncode == 0, result.stderr
    assert "15" in result.stdout
    assert "3" in result.stdout
    assert str(tmp_path / "scored.csv") in result.stdout
    assert len(READERS[".csv"](tmp_path / "scored.csv")) == 15


def test_bad_input_exits_with_2_and_one_line(trained, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for output, image_dir in (("scored.xlsx", folder), ("scored.csv", "missing")):
        result = run_main("score", "--model-uri", MODEL, "--image-dir", image_dir, "--output", output)
        assert result.returncode == 2
        assert result.stderr.startswith("mlflow-resnet: ")
        assert result.stderr.count("\n") == 1
        assert os.listdir(tmp_path) == []


def test_a_relative_directory_gives_relative_names(trained, folder, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    score(options("val", tmp_path / "scored.parquet"))
    read = pd.read_parquet(tmp_path / "scored.parquet")
    assert [f"{folder.parent}/{name}" for name in read["image"]] == list(expected["image"])
    assert_same_probabilities(read[PROBABILITIES], expected[PROBABILITIES], of_auto())


def test_a_prefix_in_s3_gives_uris(trained, images, tmp_path, s3):
    uri = upload(s3, images / "val", "to-score")
    score(options(uri, tmp_path / "scored.parquet"))
    score(options(images / "val", tmp_path / "local.parquet"))
    remote, local = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("scored", "local"))
    assert list(remote["image"]) == [name.replace(f"{images}/val", uri) for name in local["image"]]
    assert_same_rows(remote.drop(columns="image"), local.drop(columns="image"), of_auto())


@pytest.mark.parametrize("suffix", READERS)
def test_top_k_writes_a_label_and_a_probability_per_rank(suffix, trained, folder, expected, tmp_path):
    output = tmp_path / f"scored{suffix}"
    score(options(folder, output, top_k=2))
    text = TEXT | {f"Top {rank} Label": str for rank in (1, 2)}
    read = pd.read_csv(output, dtype=text, keep_default_na=False) if suffix == ".csv" else READERS[suffix](output)
    ranked = [f"Top {rank} {kind}" for rank in (1, 2) for kind in ("Label", "Probability")]
    assert list(read.columns) == ["image", "Scored Labels", *ranked, "error"]
    fine = read[read["error"] == ""]
    ordered = np.sort(expected.loc[fine.index, PROBABILITIES].to_numpy(), axis=1)[:, ::-1]
    assert_same_probabilities(fine[ranked[1::2]], ordered[:, :2], of_auto())
    assert list(fine["Top 1 Label"]) == list(expected.loc[fine.index, "Scored Labels"])


def test_pictures_are_looked_at_as_predict_does_with_the_same_parameters(trained, folder, expected, tmp_path):
    how = {"tta": "flip", "resolution": 64}
    score(options(folder, tmp_path / "scored.parquet", **how))
    scored = pd.read_parquet(tmp_path / "scored.parquet")
    predicted = mlflow.pyfunc.load_model(trained.model_uri).predict(str(folder), params=how)
    assert_same_probabilities(scored[PROBABILITIES], predicted[PROBABILITIES], of_auto())
    assert not np.allclose(scored[PROBABILITIES], expected[PROBABILITIES], atol=1e-3, equal_nan=True)


def test_more_rows_than_one_write_stay_in_order(trained, folder, tmp_path, monkeypatch):
    for module in (batch, parts):
        monkeypatch.setattr(module, "ROWS_PER_PART", 40)
    (tmp_path / "many").mkdir()
    for i in range(110):
        os.link(folder / ("007", "grün")[i % 2] / "00.jpg", tmp_path / "many" / f"{i:04d}.jpg")
    for suffix, read in READERS.items():
        assert score(options(tmp_path / "many", tmp_path / f"scored{suffix}")).rows == 110
        frame = read(tmp_path / f"scored{suffix}")
        assert [os.path.basename(name) for name in frame["image"]] == [f"{i:04d}.jpg" for i in range(110)]
        assert list(frame["Scored Labels"]) == ["007", "grün"] * 55


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("scored.xlsx", "unknown format; end the name with one of .parquet, .csv, .jsonl"),
        ("scored", "unknown format"),
        ("folder.csv", "is a directory"),
        ("file.txt/scored.csv", "cannot be written"),
        ("/proc/scored.csv", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_found_before_the_model_is_loaded(output, message, workdir):
    (workdir / "folder.csv").mkdir()
    (workdir / "file.txt").write_text("kept")
    with pytest.raises(OutputError, match=message):  # there is no such model, so loading it would fail otherwise
        score(options(workdir, output, model_uri="models:/nope/1"))
    assert (workdir / "file.txt").read_text() == "kept"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image_dir": "missing"}, InvalidDatasetError, "^missing: "),
        ({"image_dir": "empty"}, InvalidDatasetError, "empty: empty directory"),
        ({"image_dir": "no-images"}, InvalidDatasetError, "no-images: no images"),
        ({"image_dir": "old.csv"}, InvalidDatasetError, "^old.csv: "),
        ({"image_dir": "s3://bucket/nothing/here"}, InvalidDatasetError, "^s3://bucket/nothing/here: "),
        ({"model_uri": "models:/nope@champion"}, InvalidModelError, "models:/nope@champion: not in the registry"),
        ({"model_uri": "runs:/nope/model"}, InvalidModelError, "runs:/nope/model: cannot be loaded"),
        ({"model_uri": "no-images"}, InvalidModelError, "not an MLflow model"),
        ({"device": "warp"}, InvalidOptionsError, "device is 'warp'"),
    ],
)
def test_what_cannot_be_scored_leaves_the_old_output_and_nothing_else(
    changes, error, message, trained, images, s3, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    os.makedirs("empty")
    os.makedirs("no-images")
    (tmp_path / "no-images" / "notes.txt").write_text("not an image")
    (tmp_path / "old.csv").write_text("old")
    with pytest.raises(error, match=message) as caught:
        score(options(images / "val", "old.csv", **changes))
    assert "\n" not in caught.value.message
    assert (tmp_path / "old.csv").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["empty", "no-images", "old.csv"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.thorough)]
)
def test_a_signal_before_any_rows_are_kept_leaves_nothing(sent, code, trained, folder, tmp_path):
    for name in ("many", "out"):
        (tmp_path / name).mkdir()
    for i in range(20_000):
        os.link(folder / "007" / "00.jpg", tmp_path / "many" / f"{i:05d}.jpg")
    (tmp_path / "out" / "scored.csv").write_text("old")
    output = tmp_path / "out" / "scored.csv"
    with start_cli("score", "--model-uri", MODEL, "--image-dir", tmp_path / "many", "--output", output) as process:
        wait_for((tmp_path / "out" / ".scored.csv.partial").exists, 120, 0.05, process)
        process.send_signal(sent)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    assert os.listdir(tmp_path / "out") == ["scored.csv"]
    assert (tmp_path / "out" / "scored.csv").read_text() == "old"


MEASURED = """
import resource, sys
from collections import OrderedDict
from torch import nn
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.preprocessing import Preprocessing
from mlflow_resnet.io.atomic import resumable_file
from mlflow_resnet.scoring.to_file.batch import join, score_to_parts
from mlflow_resnet.scoring.over_http.guard import Guard
from mlflow_resnet.scoring.inputs import image_sources
from mlflow_resnet.scoring.to_file.parts import Parts
folder, output = sys.argv[1:]
network = nn.Sequential(OrderedDict(layer4=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(3, 2)))
predictor = Predictor(ImageClassifier("no ResNet, to be quick", ("a", "b"), Preprocessing(), network), "cpu")
sources = image_sources(folder, Guard())
with resumable_file(output) as path:
    parts = Parts(path.parent, {})
    score_to_parts(predictor, sources, parts)
    rows = join(parts, path, output).rows
print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


# Left alone, glibc's heap also keeps between 0 and 1.2 GiB of freed batches, by chance: too much noise to measure in.
GIVEN_BACK = os.environ | {"MALLOC_MMAP_THRESHOLD_": "1000000"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    picture = write_picture(tmp_path / "picture.bmp", (90, 90, 90), 1, (150, 150))
    peaks = {}
    for number in (60, 1500):  # 1500 pictures as the network sees them are 215 MiB
        folder = tmp_path / str(number)
        folder.mkdir()
        for i in range(number):
            os.link(picture, folder / f"{i}.bmp")
        command = [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "scored.parquet")]
        result = subprocess.run(command, cwd=ROOT, env=GIVEN_BACK, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stderr
        rows, peaks[number] = map(int, result.stdout.split())
        assert rows == number
    assert peaks[1500] < peaks[60] + 60, peaks
