"""Environments of other versions of MLflow and of what the package requires."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from environments import make_environment

ROOT = Path(__file__).parents[2]
LOWEST = "3.1.0"
DECISIVE = ("mlflow", "torch", "torchvision", "pandas", "pyarrow", "numpy", "pillow")
# MLflow to 3.12 allows later ones of the last two, but does not start with them.
OF_THEIR_TIME = ("pandas<3", "sqlalchemy<2.1", "fastapi<0.116")
NO_FOLDERS = (3, 13)  # from this MLflow on a store in files must be allowed by a variable


@dataclass(frozen=True)
class Versions:
    """What an environment has.

    Attributes:
        mlflow: its version.
        python: of the interpreter, such as 3.10; empty: the running one.
        others: more requirements.
        is_lowest: all that setup.cfg requires is at the lowest version that it allows.
    """

    mlflow: str
    python: str = ""
    others: tuple[str, ...] = ()
    is_lowest: bool = False

    @property
    def takes_folders(self) -> bool:
        """Whether runs may be kept in ./mlruns."""
        return tuple(int(part) for part in self.mlflow.split(".")[:2]) < NO_FOLDERS


KNOWN = {
    "lowest": Versions(LOWEST, "3.10", OF_THEIR_TIME, is_lowest=True),
    "databricks-18": Versions("3.8.1", others=OF_THEIR_TIME),
    "databricks-19": Versions("3.12.0", "3.12", OF_THEIR_TIME),
    "azureml": Versions("3.15.2", others=("pandas<3",)),
    "newest": Versions("3.17.2", "3.13"),
}


def find_requirements() -> list[str]:
    """What setup.cfg requires, as it says it."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    return [line for line in setup["options"]["install_requires"].split("\n") if line]


def pin_lowest(requirement: str) -> str:
    """`name>=1.2,<2` as `name==1.2`."""
    name, version = re.match(r"([\w.-]+)>=([\w.]+)", requirement).groups()
    return f"{name}=={version}"


def find_interpreter(version: str) -> str:
    """Returns a Python of this version, such as 3.10; empty if there is none."""
    kept = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    found = [shutil.which(f"python{version}"), *map(str, kept)]
    works = (each for each in found if each and subprocess.run([each, "-c", ""], capture_output=True).returncode == 0)
    return next(works, "")


def build(versions: Versions, path: Path) -> Path:
    """Makes an environment with these versions, unless it is there; returns its Python.

    The package itself is not in it.
    """
    if path.exists():
        return path / "bin" / "python"
    interpreter = find_interpreter(versions.python) if versions.python else sys.executable
    requirements = [each for each in find_requirements() if not each.startswith("mlflow")]
    if versions.is_lowest:
        requirements = list(map(pin_lowest, requirements))
    if interpreter == sys.executable and not versions.is_lowest:
        python = make_environment(path, ["torch", "torchvision"])  # which have gigabytes
    else:
        subprocess.run([interpreter or sys.executable, "-m", "venv", path], check=True)
        python = path / "bin" / "python"
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*command, f"mlflow=={versions.mlflow}", *versions.others, *requirements], check=True)
    return python


def describe(python: Path) -> dict[str, str]:
    """The versions that an environment has of what decides most, and of Python."""
    code = (
        "import json, platform; from importlib.metadata import version\n"
        f"found = {{name: version(name) for name in {DECISIVE}}}\n"
        "print(json.dumps({'python': platform.python_version()} | found))"
    )
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
    return dict(json.loads(found))
