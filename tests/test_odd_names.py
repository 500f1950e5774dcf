"""Names of files, classes and folders that are Latin-1, as old archives and Windows shares leave them on Linux."""

import json
import os
import shutil
import tarfile

import mlflow
import pyarrow.parquet as pq
import pytest
from helpers import TINY, convert_source, flags, run_cli, run_main, write_class_folders, write_picture
from mlflow import MlflowClient

from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.index import read_index
from mlflow_resnet.images.parquet_rows import read_parquet_rows
from mlflow_resnet.io.notes import Notes
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.tracking.outbox import PIECE, Outbox, read_piece
from mlflow_resnet.tracking.pieces import ParamsPiece
from mlflow_resnet.tracking.record import Recorder

FILE, CLASS, FOLDER = (os.fsdecode(name) for name in (b"caf\xe9.jpg", b"gr\xfcn", b"dossier \xe9t\xe9"))
NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}


@pytest.fixture
def pictures(tmp_path):
    """A folder with such a name, with a class and files with such names."""
    folder = tmp_path / FOLDER
    for number, label in enumerate((CLASS, "rot")):
        write_picture(folder / label / FILE, (1, 100 * number, 3), number)
        write_picture(folder / label / "1.png", (200, 100 * number, 3), number + 2)
    return folder


def test_convert_writes_names_that_every_table_can_hold(pictures, tmp_path):
    for added in (4, 0):
        made = convert_source(pictures, tmp_path / "out")
        assert (made.images, made.added, made.classes) == (4, added, (r"gr\xfcn", "rot"))
    rows, _ = read_index(tmp_path / "out")
    assert [row.name for row in rows][::2] == [r"gr\xfcn/1.png", "rot/1.png"]
    assert [row.name for row in rows][1::2] == [r"gr\xfcn/caf\xe9.jpg", r"rot/caf\xe9.jpg"]
    assert all((tmp_path / "out" / row.name).is_file() for row in rows)
    assert list_labeled(tmp_path / "out").classes == list_labeled(pictures).class_names


def test_convert_takes_them_from_an_archive(pictures, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(pictures, "pictures")
    assert convert_source(tmp_path / "a.tar", tmp_path / "out").classes == (r"gr\xfcn", "rot")


def test_names_that_become_equal_are_two_images(pictures, tmp_path):
    write_picture(pictures / "rot" / r"caf\xe9.jpg", (200, 2, 3), 3)
    for added in (5, 0):
        assert convert_source(pictures, tmp_path / "out").added == added
    names = [row.name for row in read_index(tmp_path / "out")[0]]
    assert names[-2:] == [r"rot/caf\xe9-2.jpg", r"rot/caf\xe9.jpg"]


def test_an_index_refers_to_no_path_that_it_cannot_hold(pictures, tmp_path):
    write_picture(tmp_path / "some" / "a" / "1.jpg", (1, 2, 3), 1)
    write_picture(tmp_path / "some" / "a" / FILE, (1, 2, 3), 2)
    made = convert_source(tmp_path / "some", tmp_path / "out", transfer="reference")
    assert made.images == 1
    assert set(made.unreadable.values()) == {"its path is not UTF-8; rename it, or give transfer copy"}


def test_audit_of_such_a_folder(workdir, pictures):
    done = run_main("audit", "--train-dir", pictures)
    assert done.returncode == 0, done.stderr
    (run,) = mlflow.search_runs(output_format="list")
    assert run.data.params["train_dir"] == f"{workdir}/dossier \\xe9t\\xe9"
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/audit/report.html").count(r"gr\xfcn") > 0


@pytest.mark.parametrize(
    "command",
    [
        ["convert", "--source", "SOURCE", "--output-dir", "OUT"],
        ["split", "--image-dir", "SOURCE", "--train-dir", "OUT", "--val-dir", "fine", "--fraction", "0.5"],
        ["score", "--model-uri", "model", "--image-dir", "SOURCE", "--output", "OUT/scored.csv"],
        ["train", "--train-dir", "SOURCE", "--checkpoint-dir", "OUT", "--offline"],
    ],
    ids=lambda command: command[0],
)
def test_an_output_below_such_a_name_is_refused_before_any_work(workdir, pictures, command):
    names = {"SOURCE": str(pictures), "OUT": str(workdir / os.fsdecode(b"\xe9"))}
    done = run_main(*[each.replace("OUT", names["OUT"]).replace("SOURCE", names["SOURCE"]) for each in command])
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert r"\xe9" in line
    assert "is not UTF-8, and not every file can be written below such a name; rename it" in line
    assert not os.path.exists(names["OUT"])


def test_a_table_in_such_a_folder_is_read(pictures, tmp_path):
    convert_source(pictures, tmp_path / "out")
    shutil.copy(tmp_path / "out" / "index.parquet", pictures)
    assert len(list(read_parquet_rows(pictures / "index.parquet", ["name"]))) == 4


def test_a_database_below_such_a_name_is_told_in_a_line(workdir, pictures):
    mlflow.set_tracking_uri(f"sqlite:///{pictures}/mlflow.db")
    done = run_main("audit", "--train-dir", pictures)
    assert done.returncode == 2
    assert (
        r"dossier \xe9t\xe9/mlflow.db does not answer (its path is not UTF-8). Start it" in done.stderr.splitlines()[-1]
    )


@pytest.mark.slow
def test_what_a_library_cannot_take_is_told_in_a_line(workdir, pictures):
    done = run_cli("audit", "--train-dir", ".", cwd=pictures, MLFLOW_TRACKING_URI="")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(r"dossier \xe9t\xe9/mlflow.db is not UTF-8; rename the file or folder")


def test_what_is_delivered_is_text_that_every_server_takes(workdir):
    run_id = MlflowClient().create_run("0").info.run_id
    Recorder(Notes(run_id=run_id)).put(ParamsPiece(params={"train_dir": FOLDER}))
    assert mlflow.get_run(run_id).data.params == {"train_dir": r"dossier \xe9t\xe9"}


def test_a_piece_that_has_waited_since_before_can_be_delivered(workdir, tmp_path):
    run_id = MlflowClient().create_run("0").info.run_id
    outbox = Outbox(tmp_path / "outbox", Notes(run_id=run_id))
    outbox.put(ParamsPiece(params={"train_dir": "plain"}))
    (folder,) = outbox.pieces()
    (folder / PIECE).write_text(json.dumps({"kind": "params", "id": "1", "params": {"train_dir": FOLDER}}))
    assert read_piece(folder).params == {"train_dir": r"dossier \xe9t\xe9"}
    outbox.deliver_all()
    assert mlflow.get_run(run_id).data.params == {"train_dir": r"dossier \xe9t\xe9"}


def test_a_registered_model_is_not_called_so():
    with pytest.raises(Exception, match=r"registered_model_name is gr\\xfcn, which is not UTF-8"):
        TrainOptions(train_dir="a", registered_model_name=CLASS)


@pytest.mark.slow
def test_train_and_evaluate_on_such_a_folder(workdir):
    write_class_folders(workdir / FOLDER, 5)
    options = TINY | {"train_dir": FOLDER, "epochs": 1, "registered_model_name": "x", "checkpoint_minutes": 5}
    done = run_main("train", *flags(options))
    assert done.returncode == 0, done.stderr
    done = run_main("evaluate", "--model-uri", "models:/x/1", "--image-dir", FOLDER)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_names_are_utf8_also_where_there_is_no_locale(workdir):
    write_class_folders(workdir / "blühend", 2)
    done = run_cli("convert", "--source", "blühend", "--output-dir", "fertig ü", **NO_LOCALE)
    assert done.returncode == 0, done.stderr
    assert "6 images of 3 classes" in done.stdout
    table = pq.read_table(workdir / "fertig ü" / "index.parquet")
    assert set(table["label"].to_pylist()) == {"007", "blue sky", "grün"}
