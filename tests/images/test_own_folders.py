"""People work inside the folder of their images: what we and MLflow write there is never a class or an image."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from helpers import COLORS, TINY, convert_source, run_main, write_class_folders

from mlflow_resnet.images.directories import list_labeled
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import fetch_labeled_directory, places
from mlflow_resnet.io.own_folders import MARKER

Write = Callable[..., Path]
RUN, MODEL = "0/0123456789abcdef0123456789abcdef", "0/models/m-0123456789abcdef0123456789abcdef"
TRAIN = [
    f"--{name.replace('_', '-')}={value}" for name, value in (TINY | {"epochs": 1, "checkpoint_minutes": 5}).items()
]


@pytest.fixture
def trained_inside(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images in which somebody has trained."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "flowers")  # a new one, whose artifacts go to ./mlruns
    write_class_folders(workdir, 4)
    told = run_main("train", "--train-dir", ".", *TRAIN)
    assert told.returncode == 0, told.stderr
    assert "train: 12 images of 3 classes in .; ignored" in told.stderr
    assert {"mlruns", "checkpoints"} <= {path.name for path in workdir.iterdir()}
    return workdir


def test_after_training_in_the_folder_of_the_images_there_are_the_same_classes(trained_inside: Path) -> None:
    assert len(list_labeled(trained_inside)) == len(list(places(str(trained_inside), Counter()))) == 12
    assert list_labeled(trained_inside).classes == tuple(COLORS)


@pytest.mark.slow
def test_every_verb_works_in_the_folder_of_the_images(trained_inside: Path) -> None:
    model = mlflow.search_logged_models(output_format="list")[0].model_uri
    scored = run_main("score", "--model-uri", model, "--image-dir", ".", "--output", "scored.csv")
    assert scored.stdout.startswith("12 images scored"), scored.stderr
    for verb in (["evaluate", "--model-uri", model, "--image-dir"], ["audit", "--train-dir"]):
        assert run_main(*verb, ".").stdout.startswith("12 images"), verb
    again = run_main("train", "--train-dir", ".", *TRAIN, "--resume", "never")
    assert "train: 12 images of 3 classes in .; ignored" in again.stderr


@pytest.fixture
def worked_in(tmp_path: Path, write_image: Write) -> Path:
    """A folder of images with all that lies there after some work."""
    for name in ("cat/1.png", "cat/2.png", "dog/3.png", "checkpoints/4.png"):  # a class may be called so
        write_image(f"flowers/{name}")
    for store in ("mlruns", "dog/mlruns", "mlartifacts"):
        write_image(f"flowers/{store}/{RUN}/artifacts/validation/top_losses.png")
        (tmp_path / "flowers" / store / RUN / "artifacts" / "model").mkdir()
    for name in (
        f"checkpoints/resnet18-1/{MARKER}",
        f"heat/{MARKER}",
        f"mlruns/{MODEL}/artifacts/MLmodel",
        "my/MLmodel",
    ):
        path = tmp_path / "flowers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    write_image("flowers/checkpoints/resnet18-1/outbox/000001/files/gallery.png")
    write_image("flowers/heat/cat/1.png")
    return tmp_path / "flowers"


def test_what_is_in_a_folder_tells_whose_it_is_and_not_its_name(worked_in: Path) -> None:
    found = list_labeled(worked_in)
    assert found.names == ("cat/1.png", "cat/2.png", "checkpoints/4.png", "dog/3.png")
    assert found.classes == ("cat", "checkpoints", "dog")
    assert found.ignored.own == 6
    assert "6 written by mlflow_resnet or MLflow" in str(found.ignored)
    above = Counter[str]()
    assert len(list(places(str(worked_in.parent), above))) == 4
    assert set(above) == {"own"}


def test_a_store_without_an_image_is_no_class(tmp_path: Path, write_image: Write) -> None:
    for name in ("cat/1.png", "dog/2.png"):
        write_image(name)
    for name in ("mlruns/0", "mlartifacts", f"elsewhere/{RUN}/artifacts", "checkpoints/resnet18-1"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "resnet18-1" / MARKER).touch()
    assert list_labeled(tmp_path).classes == ("cat", "dog")
    (tmp_path / "checkpoints" / "resnet18-1" / MARKER).unlink()
    assert list_labeled(tmp_path).classes == ("cat", "checkpoints", "dog")  # which training asks about


def test_a_folder_of_ours_can_be_listed_by_its_own_name(worked_in: Path) -> None:
    assert list(places(str(worked_in / "heat"), Counter())) == ["cat/1.png"]
    assert list_labeled(worked_in / "heat").ignored == Ignored()


def test_galleries_in_a_bucket_or_an_archive_are_no_images(tmp_path: Path, worked_in: Path, s3) -> None:
    files = [path for path in worked_in.rglob("*.png") if "heat" not in path.parts and "outbox" not in path.parts]
    with zipfile.ZipFile(tmp_path / "flowers.zip", "w") as archive:
        for path in files:
            archive.write(path, path.relative_to(tmp_path))
    made = convert_source(tmp_path / "flowers.zip", tmp_path / "out")
    assert (made.images, made.classes, made.ignored) == (4, ("cat", "checkpoints", "dog"), Ignored(own=3))
    for name in ("cat/1.png", f"mlruns/{RUN}/artifacts/x.png", f"mlruns/{RUN}/artifacts//x.png"):
        s3.put_object(Bucket="bucket", Key=f"worked-in/{name}", Body=(worked_in / "cat" / "1.png").read_bytes())
    assert fetch_labeled_directory("s3://bucket/worked-in").ignored == Ignored(own=2)


@pytest.mark.parametrize("verb", ["convert", "transform"])
def test_an_output_inside_its_source_is_refused_as_the_next_call_would_take_it_for_a_class(
    pets: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.chdir(pets)
    told = run_main(verb, "--source" if verb == "convert" else "--image-dir", ".", "--output-dir", "out")
    assert (told.returncode, (pets / "out").exists()) == (2, False)
    assert "give a directory apart from it" in told.stderr
