"""The structure of the package: seven rules, and a plugin's import that stays light."""

import ast
import shutil
import subprocess
import sys
from collections import Counter
from configparser import ConfigParser
from importlib.metadata import distribution
from zipfile import ZipFile

import pytest
import yaml
from helpers import ROOT

PACKAGE = ROOT / "mlflow_resnet"
DOORS = {"__init__", "__main__", "client", "evaluator", "flavor", "ray", "spark"}  # somebody outside writes their paths
PLAIN = {"_version", "errors", "mlflow_seams"}
# each may import those before it
ORDER = [
    "_version",
    "errors",
    "io",
    "mlflow_seams",
    "options",
    "images",
    "model",
    "evaluation",
    "training",
    "client",
    "registry",
    "scoring",
    "flavor",
    "ray",
    "spark",
    "tracking",
    "serving",
    "runs",
    "evaluator",
    "tuning",
    "verbs",
    "cli",
    "__main__",
]
WITHOUT = {
    "images": {"torch", "torchvision", "sklearn"},
    "evaluation": {"mlflow"},
    "training": {"mlflow"},
    "options": {"torch", "torchvision", "mlflow"},
    "registry": {"torch", "torchvision"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
MOST_FILES = 25  # in a folder, without those in folders below it


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports_at_the_top(path):
    """Those that run when the module is imported, so none below `if TYPE_CHECKING`."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                (f"{node.module}.{alias.name}" for alias in node.names)
                if node.module == "mlflow_resnet"
                else [node.module]
            )


def test_a_module_alone_at_the_top_is_a_door():
    assert {path.stem for path in PACKAGE.glob("*.py")} == DOORS | PLAIN
    assert {room_of(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = room_of(path)
    for module in imports_at_the_top(path):
        root, *rest = module.split(".")
        if root != "mlflow_resnet":
            assert root not in WITHOUT.get(own, set()), f"{own} must not import {root}"
        elif own == "errors":
            assert rest[:2] == ["io", "text"], f"errors imports {module}"
        elif rest and rest[0] != own:
            assert ORDER.index(rest[0]) < ORDER.index(own), f"{own} imports {rest[0]}, which comes after it"


def test_a_verb_imports_no_other_verb():
    for path in (PACKAGE / "verbs").glob("*.py"):
        others = {module for module in imports_at_the_top(path) if module.startswith("mlflow_resnet.verbs.")}
        assert others <= {"mlflow_resnet.verbs.frame"} or path.stem == "demo", f"{path.stem} imports {others}"


SEAMS = {"mlflow": "mlflow_seams.py", "torch": "model/torch_seams.py"}  # of others, no private names are used
OF_PYTHON = {"_Hash", "_exit"}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_private(name):
    return name.startswith("_") and not name.startswith("__")


def test_private_names_of_a_library_stand_in_one_file():
    nodes = {str(path.relative_to(PACKAGE)): list(ast.walk(ast.parse(path.read_text()))) for path in FILES}
    own = {node.name for path in nodes for node in nodes[path] if isinstance(node, DEFINITIONS)}
    own |= {n.attr for path in nodes for n in nodes[path] if isinstance(n, ast.Attribute) and type(n.ctx) is ast.Store}
    for path, found in nodes.items():
        for node in found:
            if isinstance(node, ast.ImportFrom) and any(is_private(alias.name) for alias in node.names):
                library = node.module.split(".")[0]
                assert library == "mlflow_resnet" or path == SEAMS.get(library), f"{path}, line {node.lineno}"
            elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | OF_PYTHON:
                assert path in SEAMS.values(), f"{path}, line {node.lineno}: {node.attr}"


def test_folders_stay_small():
    files = Counter(path.parent for path in PACKAGE.rglob("*.py") if path.stem != "__init__")
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def test_no_two_modules_have_the_same_file_name():
    stems = Counter(
        path.stem for path in FILES if path.stem != "__init__" and room_of(path) not in ("options", "verbs")
    )
    verbs = {path.stem for path in (PACKAGE / "verbs").glob("*.py")}
    assert {stem for stem, count in stems.items() if count > 1 or stem in verbs} == set()


def names_defined_in(path):
    """Public names of functions, classes and constants at the top of a module; TypeVars of one letter aside."""
    for node in ast.parse(path.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
        names += [name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)]
        yield from (name for name in names if not name.startswith("_") and len(name) > 1)


def test_no_two_modules_define_the_same_name():
    homes = {}
    for path in FILES:
        for name in set(names_defined_in(path)):
            homes.setdefault(name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: paths for name, paths in homes.items() if len(paths) > 1} == {}


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


def test_what_mlflow_loads_while_it_is_imported_imports_nothing_of_ours():
    for entry_point in (each for each in OURS if each.group != "console_scripts"):
        path = ROOT / f"{entry_point.module.replace('.', '/')}.py"
        assert not [name for name in imports_at_the_top(path) if name.startswith("mlflow_resnet")], path


REGISTERED = """
import mlflow
from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry
from mlflow.tracking._model_registry.utils import _get_store_registry
assert mlflow.data.from_image_directory
assert _model_evaluation_registry.is_registered("resnet")
assert "resnet-gate+sqlite" in _get_store_registry()._registry
"""
FIRST = [
    "mlflow",
    "mlflow_resnet.errors",
    "mlflow_resnet.flavor",
    "mlflow_resnet.mlflow_seams",
    "mlflow_resnet.evaluator",
]
FIRST += ["mlflow_resnet.tracking.dataset", "mlflow_resnet.registry.gate.plugin"]


@pytest.mark.process
@pytest.mark.parametrize("first", FIRST)
def test_the_plugin_registers_whatever_is_imported_first(first):
    run_python(
        f"import warnings; warnings.filterwarnings('error', '.*attempting to register')\nimport {first}{REGISTERED}"
    )


LIGHT = """
import sys
import mlflow_resnet, mlflow_resnet.cli
from mlflow_resnet.options import VERBS, options_class
kinds = [options_class(verb) for verb in VERBS]
heavy = {"mlflow", "pandas", "numpy", "torch", "boto3", "PIL"} & set(sys.modules)
assert not heavy, heavy
"""


@pytest.mark.process
def test_the_package_its_options_and_its_command_line_import_nothing_heavy():
    run_python(LIGHT)


@pytest.mark.process
def test_options_that_cannot_work_are_refused_before_torch_and_mlflow_are_imported():
    code = "import sys; sys.modules['torch'] = sys.modules['mlflow'] = None\n"
    code += "sys.argv[1:] = ['train', '--train-dir', 'x', '--epochs', '0']\n"
    code += "from mlflow_resnet.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "mlflow-resnet: epochs is 0; it must be at least 1\n")


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
