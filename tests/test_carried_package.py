"""The package that travels with every model: one archive, from which Python imports, where it is not installed."""

import base64
import os
import shutil
import subprocess
import sys
from zipfile import ZipFile

import mlflow
import pytest
import requests
from helpers import COLORS, ROOT, TINY, flags, free_port, server, write_class_folders
from mlflow.models import Model

import mlflow_resnet
from mlflow_resnet.model.storage import pack_package

ARCHIVE = "code/mlflow_resnet.zip"


@pytest.fixture(scope="module")
def classifier():
    return mlflow_resnet.new_classifier("resnet18", tuple(COLORS), mlflow_resnet.Preprocessing(36, 32))


@pytest.fixture(scope="module")
def saved(classifier, tmp_path_factory):
    path = tmp_path_factory.mktemp("carried models") / "model"
    mlflow_resnet.save_model(classifier, path)
    return path


@pytest.fixture(scope="module")
def saved_with_code(classifier, tmp_path_factory):
    """A model with code of the user's, which lies beside the package in a folder, as in all models of before."""
    folder = tmp_path_factory.mktemp("code of a user")
    (folder / "helper_of_the_user.py").write_text("ANSWER = 42\n")
    (folder / "notes").mkdir()
    (folder / "notes" / "note.txt").write_text("read by its path\n")
    code_paths = [str(folder / "helper_of_the_user.py"), str(folder / "notes")]
    mlflow_resnet.save_model(classifier, folder / "model", code_paths=code_paths)
    return folder / "model"


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("pictures"), 1) / "007" / "00.jpg"


def run(*command, cwd, **env):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | env
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_archive_has_every_file_of_the_package_and_nothing_else(saved):
    folder = ROOT / "mlflow_resnet"
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    with ZipFile(saved / ARCHIVE) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
        assert archive.testzip() is None
    assert found == {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}
    assert {os.path.splitext(name)[1] for name in found} == {".py", ".jinja", ".typed"}
    assert list(found) == sorted(found, key=lambda name: name.split("/"))


PACK = "import sys; from mlflow_resnet.model.storage import pack_package; sys.stdout.buffer.write(pack_package())"


@pytest.mark.slow
def test_the_same_package_is_the_same_archive_wherever_and_whenever_it_was_installed(saved, tmp_path):
    copy = shutil.copytree(ROOT / "mlflow_resnet", tmp_path / "elsewhere" / "mlflow_resnet", copy_function=shutil.copy)
    (copy / "__pycache__").mkdir(exist_ok=True)
    (copy / "__pycache__" / "flavor.cpython-311.pyc").write_bytes(b"\0")
    for path in (copy.parent, saved / ARCHIVE):
        command, env = [sys.executable, "-c", PACK], os.environ | {"PYTHONPATH": str(path)}
        packed = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True)
        assert packed.returncode == 0, packed.stderr
        assert packed.stdout == pack_package() == (saved / ARCHIVE).read_bytes()


ISOLATED = """
import sys
from importlib.machinery import PathFinder
model, encoded = sys.argv[1:]

class OnlyFromTheModel:
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] == "mlflow_resnet":
            inside = [entry for entry in (path or sys.path) if str(entry).startswith(model)]
            spec = PathFinder.find_spec(name, inside, target)
            if spec is None:
                raise ModuleNotFoundError(name)
            return spec

def refuse(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise AssertionError(f"{event} {args}")

sys.meta_path.insert(0, OnlyFromTheModel)
sys.addaudithook(refuse)
try:
    import mlflow_resnet
except ModuleNotFoundError:
    print("not installed")
import mlflow
loaded = mlflow.pyfunc.load_model(model)
scored = loaded.predict([encoded])
print(*scored["Scored Labels"], *scored["error"])
print(sys.modules["mlflow_resnet.flavor"].__file__)
"""


def score_isolated(code, model, picture, cwd):
    """The lines that a process prints which can import mlflow_resnet from the model only, and has no network."""
    encoded = base64.b64encode(picture.read_bytes()).decode()
    env = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "TORCH_HOME": str(cwd / "empty")}
    lines = run("-IB", "-c", code, model, encoded, cwd=cwd, **env).splitlines()
    assert not (cwd / "empty").exists()
    label = mlflow.pyfunc.load_model(model).predict([encoded])["Scored Labels"][0]
    assert lines[:2] == ["not installed", f"{label} "]
    return lines[2:]


AGAIN = """
from mlflow_resnet import save_model
save_model(loaded.get_raw_model(), "again")
"""


def test_the_model_carries_its_code_loads_without_network_and_is_saved_again_as_it_was(saved, picture, tmp_path):
    (place,) = score_isolated(ISOLATED + AGAIN, saved, picture, tmp_path)
    assert place == f"{saved}/{ARCHIVE}/mlflow_resnet/flavor.py"
    assert (tmp_path / "again" / ARCHIVE).read_bytes() == (saved / ARCHIVE).read_bytes()
    first, again = (Model.load(str(path)).flavors["mlflow_resnet"] for path in (saved, tmp_path / "again"))
    assert first["model_sha256"] == again["model_sha256"]


USERS = """
import helper_of_the_user
from pathlib import Path
print(helper_of_the_user.ANSWER, Path(helper_of_the_user.__file__).with_name("notes").joinpath("note.txt").read_text())
"""


def test_code_paths_come_beside_our_own_code_and_a_model_whose_code_is_a_folder_loads(
    saved_with_code, picture, tmp_path
):
    assert {path.name for path in (saved_with_code / "code").iterdir()} == {
        "helper_of_the_user.py",
        "notes",
        "mlflow_resnet",
    }
    place, *users = score_isolated(ISOLATED + USERS, saved_with_code, picture, tmp_path)
    assert place == f"{saved_with_code}/code/mlflow_resnet/flavor.py"
    assert users == ["42 read by its path", ""]


@pytest.mark.slow
def test_commands_with_workers_and_templates_run_from_the_archive_alone(saved, images, tmp_path):
    """Loading workers, processes that are spawned, and cards and reports whose templates lie in the archive."""
    archive, cwd = {"PYTHONPATH": str(saved / ARCHIVE)}, tmp_path
    found = run("-c", "import mlflow_resnet.cli; print(mlflow_resnet.cli.__file__)", cwd=cwd, **archive)
    assert found.startswith(str(saved / ARCHIVE))
    env = archive | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    folders = flags({"train_dir": images / "train", "val_dir": images / "val"})
    named = flags(TINY | {"num_workers": 2, "registered_model_name": "carried"})
    run("-m", "mlflow_resnet", "train", *folders, *named, cwd=cwd, **env)
    (logged,) = tmp_path.rglob("mlflow_resnet.zip")
    assert logged.read_bytes() == (saved / ARCHIVE).read_bytes()
    run("-m", "mlflow_resnet", "train", *folders, *named, "--processes", 2, cwd=cwd, **env)
    run("-m", "mlflow_resnet", "audit", *folders, cwd=cwd, **env)
    assert any("<html" in path.read_text() for path in tmp_path.rglob("*.html"))
    port = free_port()
    command = [sys.executable, "-m", "mlflow_resnet", "serve", "models:/carried/1"]
    with server([*command, "--port", str(port)], f"http://127.0.0.1:{port}/ping", cwd, 180, **env):
        assert requests.get(f"http://127.0.0.1:{port}/model", timeout=60).json()["name"] == "carried"
