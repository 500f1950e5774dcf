"""What a text for a place means, by its scheme."""

import os
from pathlib import Path

import pytest
from helpers import convert_source, write_picture

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, InvalidOptionsError, OutputError
from mlflow_resnet.images.sources import check_directories, local_file
from mlflow_resnet.io.atomic import new_directory, new_file
from mlflow_resnet.io.own_folders import private_cache
from mlflow_resnet.io.text.places import local_path, place_problem, result_place
from mlflow_resnet.options import AuditOptions, ConvertOptions, DemoOptions, ScoreOptions, SplitOptions, TrainOptions
from mlflow_resnet.runs.folder import open_training_folder
from mlflow_resnet.scoring.inputs import image_sources
from mlflow_resnet.scoring.over_http.guard import Guard
from mlflow_resnet.scoring.to_file.lists import ImageList
from mlflow_resnet.tracking.dataset import from_image_directory


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("file:///data/flowers", "/data/flowers"),
        ("FILE://localhost/data/flowers", "/data/flowers"),
        ("file:/data/flowers", "/data/flowers"),  # as Java and Spark write it
        ("file:///my%20photos/gr%C3%BCn", "/my photos/grün"),
        ("file:///caf%E9", os.fsdecode(b"/caf\xe9")),
        ("file:///a?b#c", "/a?b#c"),
        ("data/flowers", "data/flowers"),
        ("", ""),
        ("s3://bucket/a%20b", "s3://bucket/a%20b"),
    ],
)
def test_what_a_file_uri_names(text, path):
    assert local_path(text) == path
    assert place_problem(text) == ""


@pytest.mark.parametrize(
    "text",
    ["file://server/share", "file://flowers", "file:////server/share", "file:///a%00b", "file:///\ud800%41"],
)
def test_a_file_uri_of_another_machine_is_no_path(text):
    assert local_path(text) == text
    assert "has the scheme file:, which is not supported" in place_problem(text)


@pytest.mark.parametrize(
    "text",
    ["gs://bucket/x", "dbfs:/FileStore/x", "abfss://c@a.dfs.core.windows.net/x", "s3a://b/x", "S3://b/x", "s3:/b/x"]
    + ["hdfs://n/x", "https://example.com/x", "runs:/1/x", "az://c/x", "wasbs://c@a/x", " s3://bucket/x"],
)
def test_only_these_schemes_are_supported(text):
    assert place_problem(text).endswith("which is not supported; give a path, file:///path or s3://bucket/prefix")


@pytest.mark.parametrize("text", ["C:/photos", "a:b", "12:30/x", "./dbfs:/x", "/mnt/s3://x", "sqlite"])
def test_paths_that_look_a_little_like_it(text):
    assert place_problem(text) == ""
    assert place_problem(text, in_s3=False) == ""


def test_a_result_in_s3_keeps_its_uri():
    assert result_place("out/scored.csv") == Path("out/scored.csv")
    assert result_place("out", "index.csv") == Path("out/index.csv")
    assert result_place("s3://bucket/scored.csv") == "s3://bucket/scored.csv"
    assert result_place("s3://bucket/heat/", "index.csv") == "s3://bucket/heat/index.csv"


REFUSED = {
    "score": lambda uri: ScoreOptions(model_uri="models:/x/1", image_dir="d", output=f"{uri}.csv"),
    "convert": lambda uri: ConvertOptions(source="d", output_dir=uri),
    "split": lambda uri: SplitOptions(image_dir="d", train_dir="t", val_dir=uri),
    "train": lambda uri: TrainOptions(train_dir=uri),
    "audit": lambda uri: AuditOptions(train_dir="d", val_dir=uri),
    "demo": lambda uri: DemoOptions(output_dir=uri),
    "cache": lambda uri: TrainOptions(train_dir="d", cache_dir=uri),
}


@pytest.mark.parametrize("verb", REFUSED)
@pytest.mark.parametrize("uri", ["gs://bucket/x", "dbfs:/x", "abfss://c@a/x"])
def test_another_scheme_is_refused_before_any_work(verb, uri):
    with pytest.raises(InvalidOptionsError, match=r"'[a-z]+:/.*(is not supported|is not on this machine); give a path"):
        REFUSED[verb](uri)


def test_checkpoints_in_s3_are_a_mirror():
    with pytest.raises(
        InvalidOptionsError, match="checkpoint_dir 's3://b/c' is not on this machine.*checkpoint_mirror"
    ):
        TrainOptions(train_dir="d", checkpoint_dir="s3://b/c")


def test_only_copies_go_to_s3():
    with pytest.raises(InvalidOptionsError, match="transfer is 'hardlink', but output_dir is in S3.*give copy"):
        ConvertOptions(source="d", output_dir="s3://bucket/x", transfer="hardlink")


def test_a_file_uri_is_a_path_in_every_option(tmp_path):
    options = TrainOptions(train_dir="file:///d%20d", val_dir=tmp_path, checkpoint_dir="file:///c", cache_dir="")
    assert (options.train_dir, options.val_dir, options.checkpoint_dir) == ("/d d", str(tmp_path), "/c")
    assert ConvertOptions(source="file:///d", output_dir="file:/out").output_dir == "/out"


@pytest.mark.parametrize("text", ["s3://bucket/x", "gs://bucket/x", "s3:/bucket/x", Path("s3://bucket/x")])
def test_no_folder_is_called_like_a_scheme(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for new in (new_directory, new_file):
        with pytest.raises(OutputError, match="is not on this machine; give a path"), new(text):
            pass
    assert not os.listdir(tmp_path)


def test_an_output_of_a_file_uri(tmp_path):
    with new_directory(f"file://{tmp_path}/my%20out") as folder:
        (folder / "x").touch()
    assert os.listdir(tmp_path / "my out") == ["x"]


@pytest.fixture
def photo(tmp_path):
    """A picture in a class folder, and the URI of its file."""
    path = write_picture(tmp_path / "my photos" / "cat" / "1.png", (200, 60, 40), 1)
    return path, path.as_uri()


def test_a_file_uri_in_predict(photo):
    path, uri = photo
    one, folder = image_sources([uri, path.parent.as_uri()], Guard())
    assert one.read() == folder.read() == path.read_bytes()


def test_a_file_uri_over_http_is_refused_as_any_path(photo):
    (source,) = image_sources([photo[1]], Guard(serving=True))
    with pytest.raises(InvalidImageError, match="paths and URLs are not opened here"):
        source.read()


def test_file_uris_in_lists_and_tables(photo, tmp_path):
    path, uri = photo
    (tmp_path / "list.txt").write_text(f"{uri}\ngs://bucket/1.png\n")
    found, other = ImageList(str(tmp_path / "list.txt")).sources(lambda place: True)
    assert (found.name, found.read()) == (uri, path.read_bytes())
    with pytest.raises(InvalidImageError, match="URLs are not opened"):
        other.read()
    (tmp_path / "table.csv").write_text(f"image,label\n{uri},cat\ngs://bucket/1.png,cat\n")
    converted = convert_source(tmp_path / "table.csv", tmp_path / "out")
    assert (converted.images, list(converted.unreadable)) == (1, ["gs://bucket/1.png"])
    assert (tmp_path / "out" / "cat" / "1.png").read_bytes() == path.read_bytes()


def test_a_data_set_of_a_file_uri(photo):
    dataset = from_image_directory(photo[0].parent.parent.as_uri())
    assert dataset.directory.names == ("cat/1.png",)
    assert dataset.source.uri == str(photo[0].parent.parent)
    assert local_file(photo[1]) == photo[0]  # as weights are found


@pytest.mark.parametrize("read", [from_image_directory, check_directories, local_file])
def test_data_of_another_scheme_does_not_just_not_exist(read):
    with pytest.raises(InvalidDatasetError, match="gs://bucket/x: has the scheme gs:, which is not supported"):
        read("gs://bucket/x")
    with pytest.raises(InvalidOptionsError, match="source 'gs://bucket/x' has the scheme gs:, which is not supported"):
        convert_source("gs://bucket/x", "out")


def test_folders_that_are_on_this_machine(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", f"file://{tmp_path}/a%20cache")
    assert private_cache() == tmp_path / "a cache"
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", "s3://bucket/cache")
    with pytest.raises(OutputError, match="s3://bucket/cache: cannot be the cache.*set MLFLOW_RESNET_CACHE to a path"):
        private_cache()
    with pytest.raises(OutputError, match="s3://bucket/x: is not on this machine"):
        flavor.save_model(None, "s3://bucket/x")
    with (
        pytest.raises(OutputError, match="s3://bucket/x: is not on this machine"),
        open_training_folder("s3://bucket/x"),
    ):
        pass
