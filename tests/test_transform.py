import json

import mlflow
import numpy as np
import pytest
from helpers import TINY, run_main
from PIL import Image

from mlflow_resnet import train, transform
from mlflow_resnet.errors import InvalidDatasetError, InvalidOptionsError, OutputError
from mlflow_resnet.options import TrainOptions, TransformOptions
from mlflow_resnet.verbs.transform import FIXED_STEPS, RANDOM

ARGUMENTS = {
    "Resize": {"size": 40},
    "CenterCrop": {"size": 30},
    "Pad": {"padding": 3},
    "Grayscale": {"num_output_channels": 3},
    "ColorJitter": {"brightness": 0.9},
    "RandomResizedCrop": {"size": 30},
    "RandomCrop": {"size": 30},
    "RandomRotation": {"degrees": 90},
    "RandomAffine": {"degrees": 90},
}


@pytest.fixture
def folder(tmp_path):
    """Two classes of three noisy pictures, and a file that is none."""
    for number in range(6):
        path = tmp_path / "images" / ("cat" if number % 2 else "dog") / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, quality=95)
    (tmp_path / "images" / "cat" / "bad.png").write_bytes(b"no picture")
    return tmp_path / "images"


def written(path):
    return {str(each.relative_to(path)): np.asarray(Image.open(each)) for each in sorted(path.rglob("*.png"))}


def given(folder, steps=None, output="out", **changes):
    if steps is not None:
        (folder.parent / "steps.json").write_text(json.dumps(steps))
        changes["transformation"] = str(folder.parent / "steps.json")
    return TransformOptions(image_dir=str(folder), output_dir=str(folder.parent / output), **changes)


def test_without_a_list_the_designers_defaults(folder):
    result = transform(given(folder))
    assert (result.images, result.steps) == (6, ["Resize", "CenterCrop", "RandomHorizontalFlip"])
    assert [reason.split(" (")[0] for reason in result.unreadable.values()] == ["not an image of a supported format"]
    pictures = written(folder.parent / "out")
    assert sorted(pictures) == ["cat/1.png", "cat/3.png", "cat/5.png", "dog/0.png", "dog/2.png", "dog/4.png"]
    assert {picture.shape for picture in pictures.values()} == {(224, 224, 3)}


def test_inference_leaves_out_what_is_random(folder):
    steps = [{"name": "RandomCrop", "size": 9}, {"name": "Resize", "size": 40}, {"name": "RandomErasing", "p": 1.0}]
    result = transform(given(folder, steps, mode="inference"))
    assert result.steps == ["Resize"]
    assert {picture.shape for picture in written(folder.parent / "out").values()} == {(40, 48, 3)}


@pytest.mark.parametrize("name", FIXED_STEPS + RANDOM)
def test_every_transformation_works(folder, name):
    likely = {"p": 1.0} if name.startswith("Random") and name not in ARGUMENTS else {}
    steps = [{"name": name, **ARGUMENTS.get(name, {}), **likely}]
    transform(given(folder, [], output="before"))
    transform(given(folder, steps))
    before, after = written(folder.parent / "before"), written(folder.parent / "out")
    assert before.keys() == after.keys()
    changed = [not np.array_equal(before[each], after[each]) for each in before]
    assert sum(changed) >= 5 if name not in ("RandAugment", "TrivialAugmentWide") else any(changed)


def test_the_seed_decides(folder):
    steps = [{"name": "RandomResizedCrop", "size": 20}]
    for output, seed in (("a", 1), ("b", 1), ("c", 2)):
        transform(given(folder, steps, output=output, random_seed=seed, num_workers=1 + seed))
    first, again, other = (written(folder.parent / output) for output in "abc")
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not any(np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    ("steps", "problem"),
    [
        ([{"name": "Explode"}], "transformation 'Explode' is unknown; choose of Resize, CenterCrop"),
        ([{"name": "Resize"}], "transformation Resize does not take {}"),
        ([{"name": "Resize", "size": 8, "color": 1}], "does not take"),
        ([{"size": 8}], "no list of transformations, such as"),
        (7, "no list of transformations"),
    ],
)
def test_a_list_that_cannot_be_used(folder, steps, problem):
    with pytest.raises(InvalidOptionsError) as caught:
        transform(given(folder, steps))
    assert problem in caught.value.message
    assert not (folder.parent / "out").exists()


def test_a_random_crop_larger_than_the_image_costs_the_image(folder):
    Image.new("RGB", (200, 200)).save(folder / "cat" / "large.png")
    result = transform(given(folder, [{"name": "RandomCrop", "size": 100}]))
    assert (result.images, len(result.unreadable)) == (1, 7)


def test_files_and_folders_that_cannot_be_used(folder, tmp_path):
    with pytest.raises(InvalidOptionsError, match="missing.json: no such file"):
        transform(given(folder, transformation=str(tmp_path / "missing.json")))
    with pytest.raises(OutputError, match="is not empty"):
        transform(given(folder, output="images"))
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "x.txt").touch()
    with pytest.raises(InvalidDatasetError, match="no images"):
        transform(given(tmp_path / "texts"))


def test_a_runs_own_transformations_can_be_looked_at(workdir, images, folder):
    result = train(TrainOptions(train_dir=str(images / "train"), val_dir=str(images / "val"), **TINY | {"epochs": 1}))
    path = mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/training.json")
    assert "RandomResizedCrop" in transform(given(folder, transformation=path)).steps
    assert {picture.shape for picture in written(folder.parent / "out").values()} == {(32, 32, 3)}


def test_the_command(folder, tmp_path):
    result = run_main("transform", "--image-dir", folder, "--output-dir", tmp_path / "out", "--mode", "inference")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == f"6 images in {tmp_path / 'out'}: Resize, CenterCrop"
    assert "left out " in result.stdout
