"""JPEGs of 640 to 1024 pixels, cut from the wallpapers of two Debian packages: most are photographs, some drawings."""

from __future__ import annotations

import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import click
from PIL import Image

from mlflow_resnet.io.atomic import new_directory

PACKAGES = ("plasma-workspace-wallpapers", "mate-backgrounds")
CROPS = 12  # of each wallpaper
CLASSES = 8  # they mean nothing: wallpaper i is of class i modulo 8
LONGER_EDGES = (640, 800, 1024)  # pixels
SMALLEST = 1200  # pixels of the longer edge; smaller ones are previews
QUALITY = 90


def write_photos(output: Path) -> None:
    """Writes class folders of JPEG crops, 640 to 1024 pixels wide or high, the same ones every time."""
    with tempfile.TemporaryDirectory() as folder, new_directory(output) as new:
        for index, path in enumerate(wallpapers(fetched(Path(folder)))):
            class_folder = new / f"class{index % CLASSES}"
            class_folder.mkdir(exist_ok=True)
            with Image.open(path) as image:
                write_crops(image.convert("RGB"), class_folder, index)


def write_crops(image: Image.Image, folder: Path, index: int) -> None:
    """Crops of 40 to 90 % of each edge, so that they show different things at the wallpaper's own aspect ratio."""
    draw = random.Random(index)
    for number in range(CROPS):
        share = draw.uniform(0.4, 0.9)
        width, height = round(image.width * share), round(image.height * share)
        left, top = draw.randint(0, image.width - width), draw.randint(0, image.height - height)
        crop = image.crop((left, top, left + width, top + height))
        longer = LONGER_EDGES[number % len(LONGER_EDGES)]
        crop.thumbnail((longer, longer), Image.Resampling.LANCZOS)
        crop.save(folder / f"{index:02d}-{number:02d}.jpg", quality=QUALITY)


def wallpapers(root: Path) -> list[Path]:
    """Large JPEGs in a fixed order; the packages link other sizes to them."""
    found = []
    for path in sorted(root.rglob("*.jpg")):
        if not path.is_symlink():
            with Image.open(path) as image:
                if max(image.size) >= SMALLEST:
                    found.append(path)
    return found


def fetched(folder: Path) -> Path:
    """Downloads and unpacks the packages into `folder` without installing them."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise no_photos("this machine has no apt-get and dpkg-deb")
    try:
        subprocess.run(["apt-get", "download", *PACKAGES], cwd=folder, check=True, capture_output=True, text=True)
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "unpacked")], check=True)
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or str(error)).strip().splitlines()[-1]
        raise no_photos(f"{error.cmd[0]} failed: {reason}; apt-get update may help") from None
    return folder / "unpacked"


def no_photos(reason: str) -> click.ClickException:
    names = " and ".join(PACKAGES)
    return click.ClickException(
        f"The photographs come from the Debian packages {names}, but {reason}. "
        "Give class folders of photographs of your own with --photos FOLDER."
    )
