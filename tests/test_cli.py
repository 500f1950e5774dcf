import io
import os
import re
import zipfile

import mlflow
import pytest
from helpers import TINY, flags, run_cli, run_main, write_class_folders, write_picture
from PIL import Image

from mlflow_resnet import options

VERBS = [verb.replace("_", "-") for verb in options.VERBS]


def last_line(result):
    return result.stderr.splitlines()[-1]


def refused(*args):
    """Runs a command that must exit with 2 and one line; returns the line."""
    result = run_main(*args)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    return last_line(result)


@pytest.mark.parametrize("verb", VERBS)
def test_help_shows_a_real_example(verb):
    result = run_main(verb, "--help")
    assert result.returncode == 0
    assert f"mlflow-resnet {verb}" in result.stdout.split("Example:")[1]


def test_no_verb_prints_the_verbs():
    result = run_main("--help")
    assert all(f"\n  {verb} " in result.stdout for verb in VERBS)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["train", "--train-dirs", "x"], "train has no option --train-dirs; did you mean --train-dir?"),
        (["train", "--learning_rat", "1"], "train has no option --learning-rat; did you mean --learning-rate?"),
        (["score", "--xyzzy", "1"], "score has no option --xyzzy"),
        (["--xyzzy"], "there is no option --xyzzy"),
        (["find_lrs"], "there is no verb find-lrs; did you mean find-lr?"),
        (["train"], "train needs --train-dir; mlflow-resnet train --help tells what it is"),
        (["compare"], "compare needs RUNS; mlflow-resnet compare --help tells what it is"),
        (["train", "--train_dir", "x", "--epochs", "y"], "train: Invalid value for '--epochs'"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(args, line):
    result = run_main(*args)
    assert result.returncode == 2
    assert result.stderr.startswith(f"mlflow-resnet: {line}")
    assert len(result.stderr.splitlines()) == 1


def test_help_shows_the_options_of_train_in_sections():
    sections = [line for line in run_main("train", "--help").stdout.splitlines() if re.fullmatch(r"\S.*:", line)]
    assert sections[:3] == ["Data:", "Network:", "Recipe:"]
    assert sections[-1] == "Options:"


@pytest.fixture
def folder(tmp_path, workdir):
    return write_class_folders(tmp_path / "pictures", 4)


def train(folder, **changes):
    return refused("train", "--train-dir", folder, *flags(TINY | {"epochs": 1} | changes))


def test_train_on_a_missing_directory(folder):
    assert "does not exist" in train(folder / "nowhere")


def test_train_on_a_file(folder):
    assert "not a directory" in train(folder / "007" / "00.jpg")


def test_train_on_an_empty_directory(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty directory" in train(tmp_path / "empty")


def test_train_without_class_folders(folder):
    assert "no class folders. Put each class's images in a folder" in train(folder / "007")


def test_train_on_one_class(tmp_path, workdir):
    for i in range(5):
        write_picture(tmp_path / "p" / "only" / f"{i}.png", (1, 2, 3), i)
    assert "one class, 'only'; training needs two or more" in train(tmp_path / "p")


def test_train_with_a_class_of_one_image_to_split(folder):
    write_picture(folder / "lonely" / "1.png", (0, 0, 0), 1)
    assert "lonely" in train(folder)


def test_train_with_a_batch_larger_than_the_data(folder):
    assert "batch_size is 16, more than the 9 training images; lower it" in train(folder, batch_size=16)


def test_train_with_a_device_that_is_not_there(folder):
    assert "device is 'cuda:7', which cannot be used here" in train(folder, device="cuda:7")


def png_of_144_megapixels() -> bytes:
    file = io.BytesIO()
    Image.new("1", (12000, 12000)).save(file, "PNG", optimize=True)
    assert len(file.getvalue()) < 50_000
    return file.getvalue()


def test_train_lists_all_bad_images_before_epoch_1(folder):
    good = (folder / "007" / "00.jpg").read_bytes()
    bad = {
        "cut.jpg": good[: len(good) // 2],
        "zero.jpg": b"",
        "text.jpg": b"just text",
        "eps.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        "bomb.png": png_of_144_megapixels(),
    }
    for name, content in bad.items():
        (folder / "007" / name).write_bytes(content)
    result = run_main("train", "--train-dir", folder, *flags(TINY))
    assert result.returncode == 2
    line = last_line(result)
    assert "5 unreadable images" in line
    assert all(f"007/{name} (" in line for name in bad)
    assert "--on-bad-image skip" in line
    assert "epoch" not in result.stderr


def test_several_wrong_options_are_named_at_once(folder):
    line = train(folder, epochs=0, batch_size=0, crop_size=99, architecture="vgg")
    for problem in ("epochs is 0", "batch_size is 0", "crop_size 99 is above", "architecture is 'vgg'"):
        assert problem in line


def test_convert_a_zip_and_split_it(workdir, folder):
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in folder.rglob("*.jpg"):
            archive.write(path, path.relative_to(folder.parent))
        archive.writestr("pictures/007/bad.jpg", b"no picture")
    result = run_main("convert", "--source", "photos.zip", "--output-dir", "converted")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[0] == "12 images of 3 classes in converted"
    assert "left out photos.zip!pictures/007/bad.jpg: not an image" in result.stdout
    assert sorted(os.listdir("converted/007")) == ["00.jpg", "01.jpg", "02.jpg", "03.jpg"]
    result = run_main("split", "--image-dir", "converted", "--train-dir", "a", "--val-dir", "b", "--fraction", 0.75)
    assert result.stdout.splitlines() == ["9 images of 3 classes in a", "3 images of 3 classes in b"]


def test_convert_into_a_folder_with_files_changes_nothing(workdir, folder):
    before = sorted(folder.rglob("*"))
    assert "is not empty" in refused("convert", "--source", folder, "--output-dir", folder)
    assert sorted(folder.rglob("*")) == before


def test_convert_something_that_is_no_archive(workdir):
    with open("photos.rar", "w") as file:
        file.write("x")
    assert ".zip" in refused("convert", "--source", "photos.rar", "--output-dir", "out")
    assert not os.path.exists("out")


def test_evaluate_and_promote_with_a_registry_that_is_down(workdir, folder):
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    for verb in ("evaluate", "promote"):
        line = refused(verb, "--model-uri", "models:/m/1", "--image-dir", folder)
        assert "MLflow at http://127.0.0.1:9 does not answer" in line


def test_an_error_is_one_line_and_no_traceback_in_a_process_of_its_own(workdir):
    result = run_cli("train", "--train-dir", "nowhere")
    assert result.returncode == 2
    assert result.stderr == "mlflow-resnet: nowhere: does not exist\n"
