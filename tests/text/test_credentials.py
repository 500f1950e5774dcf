"""No user, password, signature or token in what is shown, kept or sent."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from helpers import convert_source, run_main

from mlflow_resnet.errors import InvalidModelError, MlflowResnetError, ServerUnreachableError
from mlflow_resnet.images.index import read_index
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.io.s3.listing import parse_location
from mlflow_resnet.io.text.credentials import all_without_credentials, without_credentials
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.runs.folder import ROOT, TrainingFolder, as_given, default_folder, digest_identity, identify_training
from mlflow_resnet.tracking.outbox import Outbox
from mlflow_resnet.tracking.pieces import ParamsPiece, TagsPiece

SECRET = "s3cr3t"
URIS = {
    f"http://me:{SECRET}@host:5000/x": "http://host:5000/x",
    f"https://{SECRET}@host": "https://host",
    f"http://me:{SECRET}%40@host/": "http://host/",
    f"http://me:{SECRET}@@{SECRET}@host/": "http://host/",
    f"postgresql://me:{SECRET}@host/db": "postgresql://host/db",
    f"postgresql+psycopg2://me:a/{SECRET}@host:5432/db": "postgresql+psycopg2://host:5432/db",
    f"mysql://me:1/{SECRET}@host/db": "mysql://host/db",
    f"resnet-gate+mysql+pymysql://me:{SECRET}#x@host/db?charset=utf8": "resnet-gate+mysql+pymysql://host/db?charset=utf8",
    f"http://me:{SECRET}?@[::1]:5000/": "http://[::1]:5000/",
    f"s3://key:{SECRET}@bucket/prefix": "s3://bucket/prefix",
    f"https://s3/k.png?X-Amz-Credential={SECRET}&X-Amz-Date=1&X-Amz-Signature={SECRET}&x-amz-security-token={SECRET}": (
        "https://s3/k.png?X-Amz-Credential=***&X-Amz-Date=1&X-Amz-Signature=***&x-amz-security-token=***"
    ),
    f"https://a.blob.core/c?sv=2020&sig={SECRET}": "https://a.blob.core/c?sv=2020&sig=***",
    f"https://host/?AWSAccessKeyId={SECRET}&api_key={SECRET}#access_token={SECRET}": (
        "https://host/?AWSAccessKeyId=***&api_key=***#access_token=***"
    ),
    f"mssql+pyodbc:///?odbc_connect=DRIVER%3DX%3BPWD%3D{SECRET}": "mssql+pyodbc:///?odbc_connect=***",
    f"connection to host=h user=u password={SECRET} failed": "connection to host=h user=u password=*** failed",
    f"cannot reach 'http://me:{SECRET}@host:80', nor (https://me:{SECRET}@host).": (
        "cannot reach 'http://host:80', nor (https://host)."
    ),
    json.dumps({"uri": f"s3://me:{SECRET}@bucket", "who": "me@host"}): json.dumps(
        {"uri": "s3://bucket", "who": "me@host"}
    ),
}
HARMLESS = [
    "models:/flowers@champion",
    "http://127.0.0.1:5000/#/models/flowers@champion",
    "http://[::1]:5000/a@b",
    "http://host:5000, ask me@host",
    "s3://bucket/a:b@c.jpg",
    "abfss://container@account.dfs.core.windows.net/x",
    "sqlite:////home/me@host/mlflow.db",
    "photos?design=1&author=me&tokens",
    "me:secret@host",
]


@pytest.mark.parametrize("text", URIS)
def test_credentials_are_left_out_of_any_uri(text: str) -> None:
    assert without_credentials(text) == URIS[text]
    assert without_credentials(URIS[text]) == URIS[text]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert without_credentials(text) == text


def test_no_message_repeats_a_password() -> None:
    uri = f"http://me:{SECRET}@host:5000"
    reason = one_line(ConnectionError(f"no way to {uri}/api " + "x" * 200))
    for error in (ServerUnreachableError(uri, reason), InvalidModelError(uri, "is nothing")):
        assert SECRET not in error.message + str(error)
        assert "http://host:5000" in error.message


def test_notes_and_records_keep_none_and_lose_what_earlier_versions_kept(tmp_path: Path) -> None:
    path = tmp_path / "training.json"
    path.write_text(json.dumps({"run_id": "1", "identity": {"tracking server": f"http://me:{SECRET}@host"}}))
    notes = Notes(path)
    assert notes["identity"] == {"tracking server": "http://host"}
    assert SECRET not in path.read_text()
    notes.note(identity={"weights": f"https://me:{SECRET}@host/w.pth"})
    outbox = Outbox(tmp_path / "outbox", notes)
    outbox.put(ParamsPiece(params={"weights": f"https://me:{SECRET}@host/w.pth"}))
    outbox.put(TagsPiece(tags={"mlflow.note.content": f"`--checkpoint-mirror s3://me:{SECRET}@bucket`"}))
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and SECRET in file.read_text()]
    assert not {file.stat().st_mode & 0o077 for file in tmp_path.glob("*.json")} - {0}


@pytest.fixture
def secret_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    before, uri = mlflow.get_tracking_uri(), f"http://me:{SECRET}@127.0.0.1:9"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "false")  # what commands set is undone
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(before)


def test_a_training_begun_with_the_password_in_its_notes_goes_on(secret_server: str) -> None:
    options = TrainOptions(train_dir="photos")
    assert secret_server in json.dumps(as_given(options))
    assert SECRET not in json.dumps(identify_training(options))
    old = Path(ROOT, f"{options.architecture}-{digest_identity(as_given(options))}")
    assert default_folder(options) != str(old)
    (old / "000001").mkdir(parents=True)
    (old / "training.json").write_text(json.dumps({"identity": as_given(options)}))
    assert default_folder(options) == str(old)
    folder = TrainingFolder(old)
    folder.begin(identify_training(options), "auto")  # does not say that anything has changed
    assert SECRET not in (old / "training.json").read_text()


def test_commands_that_cannot_reach_the_server_do_not_print_its_password(secret_server: str, images: Path) -> None:
    done = run_main("evaluate", "--model-uri", "models:/x/1", "--image-dir", images / "val")
    assert done.returncode == 2
    assert "MLflow at http://127.0.0.1:9 does not answer" in done.stderr
    assert SECRET not in done.stdout + done.stderr


def test_a_table_of_presigned_addresses_leaves_no_signature_behind(tmp_path: Path) -> None:
    from helpers import write_picture

    write_picture(tmp_path / "a.png", (1, 2, 3), 1)
    address = f"https://me:{SECRET}@host/b.png?X-Amz-Signature={SECRET}"
    (tmp_path / "list.csv").write_text(f"image,label\na.png,cat\n{address},cat\n")
    found = convert_source(tmp_path / "list.csv", tmp_path / "out")
    assert list(found.unreadable) == ["https://host/b.png?X-Amz-Signature=***"]
    assert SECRET not in (tmp_path / "out" / "left_out.csv").read_text()
    assert SECRET not in str(read_index(tmp_path / "out"))


def test_a_message_that_is_cut_shows_no_part_of_a_password(tmp_path: Path) -> None:
    uri = f"http://me:{SECRET * 9}@host/"
    (tmp_path / "training.json").write_text(json.dumps({"audit": uri}))
    for cause in (
        lambda: one_line_of(ValueError(f"{uri} is wrong")),
        lambda: Notes(tmp_path / "training.json"),
        lambda: TrainOptions(train_dir="x", on_bad_image=uri),
        lambda: parse_location(f"s3://me:{SECRET * 9}@bucket/x"),
    ):
        with pytest.raises(MlflowResnetError) as caught:
            cause()
        assert SECRET[:4] not in caught.value.message


def one_line_of(error: Exception) -> None:
    raise MlflowResnetError(one_line(error))


def test_facts_keep_their_shape() -> None:
    facts = {"a": [1, None, {"b": f"http://me:{SECRET}@host"}], "c": 0.5, "d": ("x", True)}
    assert all_without_credentials(facts) == {"a": [1, None, {"b": "http://host"}], "c": 0.5, "d": ["x", True]}
