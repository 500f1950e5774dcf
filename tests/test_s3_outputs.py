"""Outputs in S3: what the verbs write comes there, whole or not at all, and to no folder called "s3:"."""

import io
import os
import signal

import pandas as pd
import pyarrow.parquet as pq
import pytest
from helpers import run_main, start_cli, upload
from proxy import faulty, half

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.sources import fetch_labeled_directory
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.io.own_folders import MARKER
from mlflow_resnet.io.s3.listing import UNFINISHED

MODEL = "models:/colors@champion"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and an empty folder to work in, which is still empty at the end."""
    monkeypatch.setenv("MLFLOW_RESNET_CACHE", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "cache"
    assert os.listdir(tmp_path / "work") == []


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr("mlflow_resnet.io.s3.access.PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr("mlflow_resnet.io.s3.upload.ATTEMPTS", 1)


def keys(s3, prefix):
    found = s3.list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/").get("Contents", ())
    return {each["Key"].removeprefix(f"{prefix}/") for each in found}


def content(s3, key):
    return s3.get_object(Bucket="bucket", Key=key)["Body"].read()


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def stages(cache):
    return list((cache / "outputs").iterdir()) if (cache / "outputs").exists() else []


@pytest.mark.parametrize("suffix", [".csv", pytest.param(".parquet", marks=pytest.mark.slow)])
def test_score_to_s3(trained, images, s3, prefix, cache, tmp_path, suffix):
    command = ("score", "--model-uri", MODEL, "--image-dir", images / "val", "--output")
    assert run_main(*command, tmp_path / f"here{suffix}").returncode == 0
    s3.put_object(Bucket="bucket", Key=f"{prefix}/scored{suffix}", Body=b"an old one, which is replaced as on a disk")
    done = run_main(*command, f"s3://bucket/{prefix}/scored{suffix}")
    assert (done.returncode, done.stdout) == (0, f"12 images scored to s3://bucket/{prefix}/scored{suffix}\n")
    assert content(s3, f"{prefix}/scored{suffix}") == (tmp_path / f"here{suffix}").read_bytes()
    assert stages(cache) == []


def test_convert_to_s3(images, s3, prefix, cache):
    uri = f"s3://bucket/{prefix}"
    done = run_main("convert", "--source", images / "val", "--output-dir", uri)
    assert (done.returncode, done.stdout) == (0, f"12 images of 3 classes in {uri}\n")
    assert keys(s3, prefix) == names(images / "val") | {"index.parquet"}
    assert len(fetch_labeled_directory(uri)) == 12
    assert len(pq.read_table(io.BytesIO(content(s3, f"{prefix}/index.parquet")))) == 12
    assert stages(cache) == []
    again = run_main("convert", "--source", images / "val", "--output-dir", uri)
    assert again.returncode == 2
    assert again.stderr.endswith(f"{uri}: is not empty; give a new prefix, or empty this one\n")


def test_split_in_s3(images, s3, prefix, cache):
    source = upload(s3, images / "train", f"{prefix}/all")
    places = [f"s3://bucket/{prefix}/{part}" for part in ("train", "val/", "test")]
    done = run_main("split", "--image-dir", source, "--train-dir", places[0], "--val-dir", places[1],
                    "--test-dir", places[2], "--fraction", 0.5, "--test-fraction", 0.25)  # fmt: skip
    assert done.returncode == 0, done.stderr
    parts = [fetch_labeled_directory(place) for place in places]
    assert sorted(name for part in parts for name in part.names) == sorted(names(images / "train"))
    assert [f"{len(part)} images of 3 classes in {place}" for part, place in zip(parts, places, strict=True)] == (
        done.stdout.splitlines()
    )
    assert stages(cache) == []


def test_split_into_itself_is_refused_in_s3_too(s3, prefix):
    done = run_main("split", "--image-dir", f"s3://bucket/{prefix}/a", "--train-dir", f"s3://bucket/{prefix}/a/train",
                    "--val-dir", f"s3://bucket/{prefix}/ab")  # fmt: skip
    assert done.returncode == 2
    assert f"s3://bucket/{prefix}/a/train: is s3://bucket/{prefix}/a, in it or around it" in done.stderr


def test_explain_to_s3(trained, images, s3, prefix, cache):
    uri = f"s3://bucket/{prefix}"
    done = run_main(
        "explain", "--model-uri", MODEL, "--image-dir", images / "val", "--max-images", 2, "--output-dir", uri
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"2 images in {uri}/index.csv")
    table = pd.read_csv(io.BytesIO(content(s3, f"{prefix}/index.csv")))
    assert keys(s3, prefix) == {MARKER, "index.csv", *table["file"]}
    assert stages(cache) == []


def test_transform_to_s3(images, s3, prefix):
    done = run_main("transform", "--image-dir", images / "val", "--output-dir", f"s3://bucket/{prefix}")
    assert done.returncode == 0, done.stderr
    assert keys(s3, prefix) == {name.replace(".jpg", ".png") for name in names(images / "val")}


@pytest.mark.slow
def test_export_to_s3_and_register(trained, images, s3, prefix):
    pytest.importorskip("onnxruntime")
    done = run_main("export", "--model-uri", MODEL, "--format", "onnx", "--image-dir", images / "val", "--output-dir",
                    f"s3://bucket/{prefix}", "--registered-model-name", "exported-to-s3")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"model     s3://bucket/{prefix}\nregistry  models:/exported-to-s3/1" in done.stdout
    assert {"model.onnx", "classifier.json"} <= keys(s3, prefix)


def test_file_uris_work_as_inputs_and_outputs(images, tmp_path):
    out = tmp_path / "my out"
    done = run_main(
        "convert", "--source", f"file://{images}/val".replace(" ", "%20"), "--output-dir", f"file://{tmp_path}/my%20out"
    )
    assert (done.returncode, done.stdout) == (0, f"12 images of 3 classes in {out}\n")
    assert len(fetch_labeled_directory(str(out))) == 12


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("s3://Bucket/x", "no name of a bucket"),
        ("s3://no-such-bucket/x", "there is no such bucket"),
        ("s3://bucket/a/../b", "has an empty part, or one that is '.' or '..'"),
        ("s3://bucket//b", "has an empty part"),
        (f"s3://bucket/{'é' * 600}", "bytes and 1024 are allowed"),
        ("s3://bucket/caf\udce9", "it is not UTF-8"),
    ],
)
def test_a_place_that_cannot_be_in_s3_is_refused_before_any_work(images, s3, cache, uri, problem):
    for command in (
        ("convert", "--source", images / "val", "--output-dir", uri),
        ("score", "--model-uri", "models:/no-such-model/1", "--image-dir", images / "val", "--output", f"{uri}.csv"),
    ):
        done = run_main(*command)
        assert done.returncode == 2
        assert problem in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1
    assert stages(cache) == []


def test_who_may_not_write_learns_it_before_any_work(trained, images, s3, prefix, cache, monkeypatch):
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "" if method == "GET" else "403") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mlflow_resnet.verbs.score.open_predictor", lambda *_: pytest.fail("the work began"))
            score = run_main(
                "score", "--model-uri", MODEL, "--image-dir", images / "val", "--output", f"s3://bucket/{prefix}/a.csv"
            )
        convert = run_main("convert", "--source", images / "val", "--output-dir", f"s3://bucket/{prefix}")
    assert f"s3://bucket/{prefix}/a.csv: access denied" in score.stderr
    assert f"s3://bucket/{prefix}: access denied" in convert.stderr
    assert (score.returncode, convert.returncode) == (2, 2)
    assert stages(cache) == []
    assert keys(s3, prefix) == set()


class Broken:
    """Answers everything until so many files have come, and refuses all from then on, or until it is mended."""

    def __init__(self, files, fault="503"):
        self.left, self.fault = files, fault

    def __call__(self, method, path):
        if method == "PUT" and UNFINISHED not in path:
            self.left -= 1
        return self.fault if self.left < 0 else ""


def test_convert_goes_on_with_a_result_that_s3_did_not_take(images, s3, prefix, cache, monkeypatch, impatient):
    uri, broken = f"s3://bucket/{prefix}", Broken(files=5)
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], broken) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        done = run_main("convert", "--source", images / "val", "--output-dir", uri)
        assert done.returncode == 2
        assert "the server is too busy" in done.stderr
        (stage,) = stages(cache)
        assert f"The result is whole in {stage}/result; the same command sends it" in done.stderr
        assert UNFINISHED in keys(s3, prefix)
        broken.left = 1000
        with pytest.raises(InvalidDatasetError, match=f"{uri}/: is not whole: a call is writing to it, or was killed"):
            fetch_labeled_directory(uri)
        other = run_main("convert", "--source", images / "train", "--output-dir", uri)
        assert f"{uri}: is being written by another call, or one was killed" in other.stderr
        done = run_main("convert", "--source", images / "val", "--output-dir", uri)
    assert (done.returncode, done.stdout) == (0, f"12 images of 3 classes in {uri}, 12 by an earlier call\n")
    assert keys(s3, prefix) == names(images / "val") | {"index.parquet"}
    assert stages(cache) == []


def test_a_result_that_s3_refuses_is_kept_and_nothing_of_it_is_left_there(images, s3, prefix, cache, monkeypatch):
    uri, source = f"s3://bucket/{prefix}/val", images / "train"

    def spoil(method, path):
        return "403" if method == "PUT" and "/train/007/00" in path else ""

    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], spoil) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        done = run_main("split", "--image-dir", source, "--train-dir", f"s3://bucket/{prefix}/train", "--val-dir", uri)
    assert done.returncode == 2
    assert f"s3://bucket/{prefix}/train: access denied" in done.stderr
    kept = [stage / "result" for stage in stages(cache)]
    assert sorted(name for folder in kept for name in names(folder)) == sorted(names(source))
    assert keys(s3, prefix) == set()


def test_scored_rows_are_kept_until_s3_took_them(trained, images, s3, prefix, cache, monkeypatch, impatient):
    command = ("score", "--model-uri", MODEL, "--image-dir", images / "val", "--output", f"s3://bucket/{prefix}/a.csv")
    broken = Broken(files=0)
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], broken) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        done = run_main(*command)
        assert done.returncode == 2
        assert "What was made up to here is kept, and the same command goes on" in done.stderr
        assert keys(s3, prefix) == set()
        broken.left = 1000
        done = run_main(*command)
    assert done.returncode == 0
    assert "going on after 12 rows" in done.stderr
    assert len(pd.read_csv(io.BytesIO(content(s3, f"{prefix}/a.csv")))) == 12
    assert stages(cache) == []


@pytest.mark.parametrize("key", ["", "same"])
def test_a_call_that_was_killed_while_it_sent(s3, prefix, cache, key):
    uri = f"s3://bucket/{prefix}"
    with pytest.raises(KeyboardInterrupt), destination(uri, key) as folder:  # noqa: PT012
        folder.mkdir()
        (folder / "a").touch()
        token = folder.with_name("token").read_text()
        raise KeyboardInterrupt
    assert keys(s3, prefix) == set()
    for name in ("a", "b", UNFINISHED):  # what kill -9 would leave
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=token.encode())
    with destination(uri, key) as folder:
        assert folder.exists() == bool(key)
        folder.mkdir(exist_ok=True)
        (folder / "c").touch()
    assert keys(s3, prefix) == ({"a", "c"} if key else {"c"})


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["convert", "split"])
def test_kill_9_while_files_are_sent(images, s3, prefix, cache, monkeypatch, verb):
    uri, sent = f"s3://bucket/{prefix}", []
    places = ["--source", images / "train", "--output-dir", uri]
    if verb == "split":
        places = ["--image-dir", images / "train", "--train-dir", f"{uri}/train", "--val-dir", f"{uri}/val"]

    def spoil(method, path):
        if method == "PUT" and UNFINISHED not in path:
            sent.append(path)
            if len(sent) == 10:
                process.kill()
        return ""

    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], spoil) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with start_cli(verb, *map(str, places)) as process:
            process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
        with pytest.raises(InvalidDatasetError, match="is not whole"):
            fetch_labeled_directory(uri if verb == "convert" else f"{uri}/train")
        assert run_main(verb, *places).returncode == 0
    found = keys(s3, prefix) - {"index.parquet"}
    assert {name.removeprefix("train/").removeprefix("val/") for name in found} == names(images / "train")
    assert len(found) == 24
    assert stages(cache) == []


def test_a_call_that_fails_after_one_that_was_killed_leaves_nothing(s3, prefix, cache):
    uri = f"s3://bucket/{prefix}"
    with pytest.raises(KeyboardInterrupt), destination(uri, "same") as folder:  # noqa: PT012
        folder.mkdir()
        token = folder.with_name("token").read_text()
        raise KeyboardInterrupt
    for name in ("a", UNFINISHED):
        s3.put_object(Bucket="bucket", Key=f"{prefix}/{name}", Body=token.encode())
    with pytest.raises(ValueError, match="the work failed"), destination(uri, "same") as folder:  # noqa: PT012
        folder.rmdir()
        raise ValueError("the work failed")
    assert keys(s3, prefix) == set()
    assert stages(cache) == []


@pytest.mark.slow
def test_half_of_all_answers_are_spoiled(s3, prefix, monkeypatch):
    monkeypatch.setattr("mlflow_resnet.io.s3.access.LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr("mlflow_resnet.io.s3.upload.ATTEMPTS", 2)
    contents = {name: os.urandom(1000) for name in ("a", "b", "c/d", "c/e")} | {"large": os.urandom(9 * 2**20)}
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], half(1, "503")) as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with destination(f"s3://bucket/{prefix}") as folder:
            (folder / "c").mkdir(parents=True)
            for name, written in contents.items():
                (folder / name).write_bytes(written)
    assert {name: content(s3, f"{prefix}/{name}") for name in keys(s3, prefix)} == contents
    assert any("uploadId" in path for _, path, _ in server.requests)  # the large one came in parts


def test_the_index_comes_last(s3, prefix, monkeypatch):
    with faulty(os.environ["MLFLOW_S3_ENDPOINT_URL"], lambda method, path: "") as server:
        monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", server.url)
        with destination(f"s3://bucket/{prefix}") as folder:
            for name in ("index.parquet", "z/index.parquet", "a/1.png"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).touch()
    put = [path.partition(f"{prefix}/")[2] for method, path, _ in server.requests if method == "PUT"]
    assert [name.partition("?")[0] for name in put[:2]] == [UNFINISHED] * 2  # whether it can be written, and that it is
    assert put[-1].partition("?")[0] == "index.parquet"
    assert server.requests[-1][0] == "DELETE"


def test_two_calls_for_one_place_do_not_mix(s3, prefix):
    uri = f"s3://bucket/{prefix}"
    with destination(uri) as folder:
        folder.mkdir()
        with pytest.raises(Exception, match="is being written by another process; wait for it"), destination(f"{uri}/"):
            pass
