"""The structure of the package: imports point one way, and a plugin's import stays light."""

import ast
import shutil
import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import distribution
from zipfile import ZipFile

import pytest
import yaml
from helpers import ROOT

PACKAGE = ROOT / "mlflow_resnet"
# each may import those before it
LAYERS = [
    "_version",
    "text",
    "errors",
    "console",
    "options",
    "images",
    "model",
    "evaluation",
    "training",
    "client",
    "transformation",
    "registry",
    "scoring",
    "flavor",
    "ray",
    "spark",
    "tracking",
    "preparation",
    "mirroring",
    "resuming",
    "launch",
    "curation",
    "evaluator",
    "training_run",
    "pipeline",
    "champions",
    "shadowing",
    "explaining",
    "exporting",
    "serving",
    "tuning",
    "digits_demo",
    "summaries",
    "cli",
    "__main__",
]
FOREIGN = {"images": {"torch", "torchvision", "sklearn"}, "evaluation": {"mlflow"}, "training": {"mlflow"}}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def top_level_imports(path):
    """(module, at the top of the file or not) of each import."""
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = layer_of(path)
    for module in top_level_imports(path):
        root, *rest = module.split(".")
        if root != "mlflow_resnet":
            assert root not in FOREIGN.get(own, set()), f"{own} must not import {root}"
        elif rest and rest[0] != own:
            assert LAYERS.index(rest[0]) < LAYERS.index(own), f"{own} imports {rest[0]}, which comes after it"


def test_every_file_has_its_place():
    assert {layer_of(path) for path in FILES} == set(LAYERS)


def test_functions_stay_small():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"


OURS = list(distribution("mlflow_resnet").entry_points)


def test_the_package_is_installed_with_its_entry_points():
    assert {e.group for e in OURS} == {
        "console_scripts",
        "mlflow.dataset_constructor",
        "mlflow.model_evaluator",
        "mlflow.model_registry_store",
    }


LOADING = """
import sys, warnings
warnings.simplefilter("error", UserWarning)
import mlflow
from importlib.metadata import distribution
from zipfile import ZipFile
for entry_point in distribution("mlflow_resnet").entry_points:
    assert callable(entry_point.load()), entry_point
    assert "torch" not in sys.modules, f"{entry_point} imports torch"
"""


@pytest.mark.process
def test_entry_points_load_without_torch():
    run_python(LOADING)


@pytest.mark.process
@pytest.mark.parametrize("first", ["mlflow", "mlflow_resnet.flavor"])  # each imports the other
def test_the_plugin_registers_whatever_is_imported_first(first):
    code = f"import warnings; warnings.simplefilter('error', UserWarning); import {first}; import mlflow; "
    run_python(code + "mlflow.data.from_image_directory")


def run_python(code):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_public_surface_is_what_the_package_lists():
    import mlflow_resnet

    assert dir(mlflow_resnet) == sorted(mlflow_resnet.__all__)
    assert all(getattr(mlflow_resnet, name) for name in mlflow_resnet.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mlflow_resnet.nothing


def test_conda_yaml_asks_for_what_setup_cfg_asks_for():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = setup["options"]["install_requires"].split()
    conda = yaml.safe_load((ROOT / "conda.yaml").read_text())
    (pip,) = [entry["pip"] for entry in conda["dependencies"] if isinstance(entry, dict)]
    assert pip == required
    assert f"python{setup['options']['python_requires']}" in conda["dependencies"]


@pytest.mark.process
def test_an_install_has_every_file_of_the_package(tmp_path):
    source = shutil.copytree(PACKAGE, tmp_path / "source" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source.parent)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", source.parent]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    ours = {path.relative_to(source.parent).as_posix() for path in source.rglob("*") if path.is_file()}
    assert ours <= set(ZipFile(wheel).namelist())


NOT_IN_A_SAVED_MODEL = ("boto3", "captum", "imagehash", "matplotlib", "optuna", "psutil", "scipy", "sklearn", "tqdm")


@pytest.mark.process
def test_the_client_needs_no_torch_and_scoring_only_what_a_saved_model_requires():
    code = "import sys; sys.modules['torch'] = None; import mlflow_resnet.client; del sys.modules['torch']\n"
    code += f"for name in {NOT_IN_A_SAVED_MODEL}: sys.modules[name] = None\n"
    run_python(code + "import mlflow_resnet.flavor, mlflow_resnet.scoring.pyfunc")
