import os
import sys
from collections import Counter
from pathlib import Path

import boto3
import pytest
from helpers import run_main, upload
from proxy import faulty, half

from mlflow_resnet.errors import (
    InvalidDatasetError,
    InvalidImageError,
    MissingPackageError,
    NotLabeledDatasetError,
    ObjectUnreadableError,
)
from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.sources import directory_sources, fetch_labeled_directory, local_file
from mlflow_resnet.io.s3.access import connect_s3
from mlflow_resnet.io.s3.listing import objects, parse_location


@pytest.fixture
def pets(tmp_path):
    """Class folders with 12 files; S3 does not care what is in them."""
    for name in ("cat/1.png", "cat/more/2.png", "cat/10.png", "dog/ü 1.JPG", "dog/a/b.png", "dog/notes.txt"):
        path = tmp_path / "pets" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(5_000))
    for number in range(6):
        (tmp_path / "pets" / "dog" / f"{number}.png").write_bytes(os.urandom(5_000))
    return tmp_path / "pets"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("mlflow_resnet.io.s3.access.PATIENCE_SECONDS", 1.0)


def contents(directory):
    return {name: Path(path).read_bytes() for name, path in zip(directory.names, directory.paths, strict=True)}


def gets(server):
    """Objects that were asked for, without listings."""
    return [path for method, path, _ in server.requests if method == "GET" and "list-type" not in path]


def test_a_prefix_is_like_the_folder_it_was_copied_from(pets, s3, prefix):
    uri = upload(s3, pets, prefix)
    here, there = list_labeled(pets), fetch_labeled_directory(uri)
    assert there.source == uri
    assert (there.names, there.labels, there.classes) == (here.names, here.labels, here.classes)
    assert contents(there) == contents(here)
    assert there.ignored == here.ignored
    assert {each.key for each in there.objects} == {f"{prefix}/{name}" for name in here.names}
    assert fetch_labeled_directory(uri + "/") == fetch_labeled_directory(uri + "/")


def test_a_second_run_moves_only_what_changed(pets, s3, prefix, monkeypatch):
    uri = upload(s3, pets, prefix)
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        fetch_labeled_directory(uri)
        assert len(gets(server)) == 11
        server.requests.clear()
        fetch_labeled_directory(uri)
        assert gets(server) == []
        s3.put_object(Bucket="bucket", Key=f"{prefix}/cat/1.png", Body=b"another")
        s3.delete_object(Bucket="bucket", Key=f"{prefix}/cat/10.png")
        changed = fetch_labeled_directory(uri)
        assert len(gets(server)) == 1
    assert contents(changed)["cat/1.png"] == b"another"
    assert "cat/10.png" not in changed.names


@pytest.mark.parametrize("fault", ["503", "cut", "flip"])
def test_half_of_all_answers_are_spoiled(pets, s3, prefix, monkeypatch, fault):
    monkeypatch.setattr("mlflow_resnet.io.s3.access.LONGEST_PAUSE_SECONDS", 0.1)
    uri = upload(s3, pets, prefix)
    s3.put_object(Bucket="bucket", Key=f"{prefix}/cat/1.png", Body=b"x", ChecksumAlgorithm="CRC32")
    if fault == "flip":  # only a checksum that was stored with the object tells
        for path in pets.rglob("*.*"):
            key = f"{prefix}/{path.relative_to(pets)}"
            s3.put_object(Bucket="bucket", Key=key, Body=path.read_bytes(), ChecksumAlgorithm="CRC32")
    else:
        s3.upload_file(str(pets / "cat/1.png"), "bucket", f"{prefix}/cat/1.png")
    spoil = half(1, fault)
    only_objects = lambda method, path: spoil(method, path) if fault == "503" or "list-type" not in path else ""  # noqa: E731
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], only_objects) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        assert contents(fetch_labeled_directory(uri)) == contents(list_labeled(pets))
        assert sum(spoiled == fault for _, _, spoiled in server.requests) >= 3


def test_a_server_that_stays_too_busy_is_given_up(s3, monkeypatch, impatient):
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "503") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with pytest.raises(InvalidDatasetError, match="s3://bucket/x/: the server is too busy, for 60 seconds"):
            fetch_labeled_directory("s3://bucket/x")
        assert len(server.requests) >= 3


def test_an_object_that_is_replaced_after_the_listing_is_noticed(pets, s3, prefix, monkeypatch):
    uri = upload(s3, pets, prefix)

    def replace(method, path):
        if "list-type" not in path:
            s3.put_object(Bucket="bucket", Key=f"{prefix}/cat/1.png", Body=b"another")
        return ""

    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], replace) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with pytest.raises(ObjectUnreadableError, match=r"cat/1\.png: changed while it was being read"):
            fetch_labeled_directory(uri)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        (["cat/../../x.png"], r"'cat/../../x.png' \(leads out of the directory\)"),
        (["/x.png"], r"'/x.png' \(leads out of the directory\)"),
        (["cat//x.png"], "leads out of the directory"),
        (["cat/x.png", "cat/X.png"], "differs from another only in case"),
        (["cat/x.png", "Cat/y.png"], "differs from another only in case"),
        (["cat/x.png", "cat/x.png/y.png"], r"'cat/x.png' \(is an object and a prefix of others\)"),
    ],
)
def test_keys_that_no_folder_can_hold_are_refused(s3, tmp_path, request, keys, problem):
    prefix = f"evil/{abs(hash(request.node.name))}"
    for key in keys:
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{key}", Body=b"x")
    with pytest.raises(InvalidDatasetError, match=problem):
        fetch_labeled_directory(f"s3://bucket/{prefix}")
    assert not list((tmp_path / "cache").rglob("*"))


def test_markers_of_folders_and_hidden_objects_are_left_out(s3, prefix):
    for key in ("cat/", "cat/.ipynb_checkpoints/1.png", "cat/1.png", "cat/._1.png", "cat/notes.txt", "loose.png"):
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{key}", Body=b"" if key.endswith("/") else b"x")
    found = fetch_labeled_directory(f"s3://bucket/{prefix}")
    assert found.names == ("cat/1.png",)
    assert (found.ignored.hidden, found.ignored.not_images, found.ignored.beside_classes) == (2, 1, 1)


def test_a_flat_prefix_has_no_labels(s3, prefix):
    s3.put_object(Bucket="bucket", Key=f"{prefix}/1.png", Body=b"x")
    with pytest.raises(NotLabeledDatasetError):
        fetch_labeled_directory(f"s3://bucket/{prefix}")


def test_a_prefix_ends_where_a_folder_would(s3, prefix):
    for name in ("flowers/rose/1.png", "flowers-old/rose/2.png"):
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=b"x")
    assert fetch_labeled_directory(f"s3://bucket/{prefix}/flowers").names == ("rose/1.png",)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://", "'' is no name of a bucket"),
        ("s3://My_Bucket/x", "'My_Bucket' is no name of a bucket"),
        ("s3://bucket/a\0b", "a NUL cannot be asked for"),
        ("s3://no-such-bucket-here/x", "nothing there. Check the bucket and the prefix"),
        ("s3://bucket/nothing-below-this", "nothing there. Check the bucket and the prefix"),
    ],
)
def test_places_that_there_are_not(s3, uri, problem):
    for use in (fetch_labeled_directory, local_file, lambda uri: list(directory_sources(uri, Counter()))):
        with pytest.raises(InvalidDatasetError, match=problem):
            use(uri)


def test_without_credentials_the_sentence_says_what_to_set(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(InvalidDatasetError, match="no AWS credentials were found. Set AWS_ACCESS_KEY_ID"):
        fetch_labeled_directory("s3://bucket/x")


def test_without_boto3_the_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(MissingPackageError, match="s3:// needs a package .* pip install 'boto3>=1.35'"):
        fetch_labeled_directory("s3://bucket/x")


def test_a_server_that_is_not_there_is_named(s3, monkeypatch, impatient):
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(InvalidDatasetError, match=r"http://127.0.0.1:9 does not answer"):
        fetch_labeled_directory("s3://bucket/x")


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("MLFLOW_S3_ENDPOINT_URL", "nonsense", "Invalid endpoint"),
        ("AWS_PROFILE", "nobody", "profile .nobody. could not"),
    ],
)
def test_a_configuration_that_cannot_be_used(s3, monkeypatch, name, value, problem):
    monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    with pytest.raises(InvalidDatasetError, match=f"^s3://bucket/x: cannot be read .*{problem}"):
        fetch_labeled_directory("s3://bucket/x")


def test_the_command_line_shows_no_secret(s3, monkeypatch, impatient):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    result = run_main("score", "--model-uri", "models", "--image-dir", "s3://bucket/x", "--output", "x.csv")
    assert result.returncode == 2
    assert "SECRET" not in result.stderr.upper().replace("AWS_SECRET_ACCESS_KEY", "")


def test_scoring_starts_before_the_listing_ends(s3, prefix, monkeypatch):
    names = [f"{number:04d}.png" for number in range(300)]
    for name in names:
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=name.encode())
    monkeypatch.setattr("mlflow_resnet.io.s3.listing.KEYS_PER_PAGE", 100)
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        sources = directory_sources(f"s3://bucket/{prefix}", Counter())
        assert next(sources).read() == b"0000.png"
        assert sum("list-type" in path for _, path, _ in server.requests) == 1
        rest = list(sources)
    assert [source.name for source in rest] == [f"s3://bucket/{prefix}/{name}" for name in names[1:]]
    assert [source.read().decode() for source in rest] == names[1:]


def test_a_bad_object_costs_only_its_own_row(s3, prefix, monkeypatch):
    monkeypatch.setattr("mlflow_resnet.images.sources.MAX_IMAGE_BYTES", 2**20)
    bodies = {"a.png": b"a", "b/../c.png": b"c", "empty.png": b"", "gone.png": b"g", "huge.png": bytes(2**20 + 1)}
    for name, body in {**bodies, "z.png": b"z"}.items():
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=body)

    def remove(method, path):
        if "gone" in path:
            s3.delete_object(Bucket="bucket", Key=f"{prefix}/gone.png")
        return ""

    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], remove) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        sources = list(directory_sources(f"s3://bucket/{prefix}", Counter()))
    assert len(sources) == 6
    assert (sources[0].read(), sources[-1].read()) == (b"a", b"z")
    reasons = ["leads out of the prefix", "empty file", "nothing there", "over the limit"]
    for source, reason in zip(sources[1:5], reasons, strict=True):
        with pytest.raises(InvalidImageError, match=reason):
            source.read()


def test_an_object_or_a_whole_bucket(s3, prefix):
    s3.put_object(Bucket="bucket", Key=f"{prefix}/weights.pth", Body=b"w")
    assert local_file(f"s3://bucket/{prefix}/weights.pth").read_bytes() == b"w"
    with pytest.raises(InvalidDatasetError, match="a prefix of several objects"):
        local_file(f"s3://bucket/{prefix}")
    s3.create_bucket(Bucket="of-cats")
    s3.put_object(Bucket="of-cats", Key="cat/1.png", Body=b"x")
    assert (
        fetch_labeled_directory("s3://of-cats").names
        == fetch_labeled_directory("s3://of-cats/").names
        == ("cat/1.png",)
    )


def test_more_keys_than_a_page_holds(s3, prefix, monkeypatch):
    monkeypatch.setattr("mlflow_resnet.io.s3.listing.KEYS_PER_PAGE", 2)
    keys = [f"{prefix}/{name}" for name in ("a b.png", "a%20b.png", "a+b.png", "ü.png", "z.png")]
    for key in keys:
        s3.put_object(Bucket="bucket", Key=key, Body=b"x")
    found = [each.key for each in objects(connect_s3("s3://bucket"), parse_location(f"s3://bucket/{prefix}"))]
    assert found == sorted(keys, key=str.encode)
