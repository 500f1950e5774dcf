"""Virtual environments that share the packages of the running one, as hard links: seconds, and no room on the disk.

uv shares what its own cache holds, but cannot take packages from an environment that pip made: it would fetch torch,
which has gigabytes, once more. pip finds the links in place and installs only what is missing.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from tiers import needs


def make_environment(path: Path, requirements: Iterable[str]) -> Path:
    """Makes one that has what the requirements need, where the running environment has it; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", path], check=True)
    python = path / "bin" / "python"
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", ask], check=True, capture_output=True, text=True).stdout.strip())
    for package in needed(requirements):
        share(package, packages, path)
    return python


def install_beside_ours(path: Path, *packages: str) -> Path:
    """Makes an environment of what this package requires and of others from PyPI; returns its folder of commands."""
    python = make_environment(path, (text for text in requires("mlflow_resnet") or () if "extra ==" not in text))
    install(python, *packages)
    return python.parent


def install(python: Path, *arguments: str) -> None:
    """Calls pip; the test is skipped where a package cannot be had, and fails where packages do not fit together."""
    command = [python, "-m", "pip", "install", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if "No matching distribution found" in done.stderr:
        pytest.skip(needs(f"packages of {' '.join(arguments)}", "pip finds them on PyPI"))
    assert done.returncode == 0, done.stderr[-3000:]


def needed(requirements: Iterable[str]) -> Iterator[Distribution]:
    """Installed packages that these name, and what those need in turn."""
    waiting, seen = [Requirement(text) for text in requirements], set()
    while waiting:
        requirement = waiting.pop()
        for extra in ("", *sorted(requirement.extras)):
            if (requirement.name.lower(), extra) in seen:
                continue
            seen.add((requirement.name.lower(), extra))
            with contextlib.suppress(PackageNotFoundError):
                package = distribution(requirement.name)
                others = map(Requirement, package.requires or [])
                waiting += [each for each in others if not each.marker or each.marker.evaluate({"extra": extra})]
                yield package


def share(package: Distribution, packages: Path, environment: Path) -> None:
    """Links a package's files; its commands are copies that call the environment's own Python."""
    for file in package.files or []:
        source = Path(str(file.locate()))
        if file.parts[0] == "..":
            command = environment / "bin" / file.name
            if file.parts[-2] == "bin" and not command.exists():
                command.write_bytes(source.read_bytes().replace(os.fsencode(sys.prefix), os.fsencode(environment)))
                shutil.copymode(source, command)
        elif source.exists() and not (packages / file).exists():
            (packages / file).parent.mkdir(parents=True, exist_ok=True)
            link(source, packages / file)


def link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # on another disk
        target.symlink_to(source)
