import os
import signal

import mlflow
import pytest
from helpers import ROOT, TINY, flags, learn, run_cli, run_main, start_cli, write_class_folders, write_picture
from mlflow import MlflowClient

from mlflow_resnet.errors import ClassMismatchError, InvalidDatasetError, TrainingDivergedError
from mlflow_resnet.options import TrainOptions
from mlflow_resnet.registry.versions import register
from mlflow_resnet.verbs.train import train

FAST = TINY | {"epochs": 1}


def options(images, **changes):
    return TrainOptions(**{"train_dir": str(images / "train"), "val_dir": str(images / "val")} | FAST | changes)


def test_train_learns_colors(trained):
    assert trained.metrics["val_top1_accuracy"] == 1.0
    assert trained.classifier.classes == ("007", "blue sky", "grün")


def test_train_holds_out_a_stratified_part_of_one_directory(workdir, images):
    result = train(options(images, val_dir="", val_fraction=0.25))
    datasets = {d.dataset.name: d.dataset for d in mlflow.get_run(result.run_id).inputs.dataset_inputs}
    held_out = datasets["train-validation"]
    assert '"images": 6' in held_out.profile
    assert '"007": 2, "blue sky": 2' in held_out.profile
    assert datasets["train-training"].digest != held_out.digest


def test_same_seed_gives_the_same_weights_whatever_the_number_of_workers(images, sha256_of_weights):
    first, second = (sha256_of_weights(learn(options(images, num_workers=n))) for n in (1, 3))
    assert first == second
    assert sha256_of_weights(learn(options(images, random_seed=2))) != first


@pytest.fixture
def sha256_of_weights(tmp_path_factory):
    from mlflow_resnet.model.storage import save_classifier

    return lambda result: save_classifier(result.classifier, tmp_path_factory.mktemp("weights"))


def test_the_best_epoch_is_kept_and_not_the_last(workdir, images):
    """A rate that is far too high after a good first epoch: the last epochs are worse."""
    result = train(options(images, epochs=4, learning_rate=0.3, warmup_epochs=3, patience=4))
    history = MlflowClient().get_metric_history(result.run_id, "val_top1_accuracy")
    losses = MlflowClient().get_metric_history(result.run_id, "val_loss")
    best = max(zip(history, losses, strict=True), key=lambda pair: (pair[0].value, -pair[1].value))[0]
    assert result.best_epoch == best.step
    assert evaluated_again(result.classifier, images)["top1_accuracy"] == best.value


def evaluated_again(classifier, images):
    from mlflow_resnet.evaluation.evaluation import evaluate_directory
    from mlflow_resnet.images.directories import list_labeled
    from mlflow_resnet.model.prediction import Predictor

    return evaluate_directory(Predictor(classifier), list_labeled(images / "val")).headline


def test_patience_counts_from_the_best_epoch(images):
    results = learn(options(images, epochs=6, patience=1, learning_rate=1e-9)).results
    best_epoch = max(number for number, result in enumerate(results, start=1) if result.is_best)
    assert len(results) <= best_epoch + 1


def test_a_terminal_shows_a_bar_and_a_log_gets_lines(workdir, images):
    lines = run_main("train", "--train-dir", images / "train", *flags(FAST | {"print_frequency": 2})).stderr
    assert "epoch 1/1  iteration 2/2  loss " in lines
    assert "images/s" in lines
    assert "\r" not in [line for line in lines.splitlines() if "iteration" in line][0]


def test_a_loss_that_is_not_finite_stops_and_registers_nothing(workdir, images):
    with pytest.raises(TrainingDivergedError, match="Nothing was registered. Try a lower --learning-rate"):
        train(options(images, learning_rate=1e30, registered_model_name="diverged"))
    assert MlflowClient().search_registered_models() == []
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "FAILED"
    assert {model.status.name for model in mlflow.search_logged_models(output_format="list")} == {"FAILED"}


def test_an_error_in_the_data_leaves_no_run(workdir, images):
    (workdir / "empty").mkdir()
    with pytest.raises(InvalidDatasetError, match="empty directory"):
        train(options(images, val_dir="empty"))
    assert mlflow.search_runs(output_format="list") == []


def test_validation_classes_follow_the_training_classes(images, tmp_path):
    for i in range(3):
        write_picture(tmp_path / "val" / "grün" / f"{i}.png", (70, 170, 80), i)
    result = learn(options(images, val_dir=str(tmp_path / "val"), epochs=8))
    assert result.metrics["val_top1_accuracy"] == 1.0, "index 0 of val is index 2 of train"


def test_validation_classes_that_training_lacks_are_named(workdir, images, tmp_path):
    write_class_folders(tmp_path / "val", 2)
    write_picture(tmp_path / "val" / "owl" / "1.png", (0, 0, 0), 1)
    with pytest.raises(ClassMismatchError, match="class folders 'owl' are unknown to the training images"):
        train(options(images, val_dir=str(tmp_path / "val")))


def test_names_that_are_not_utf8_work_to_the_end(workdir, tmp_path):
    folder = write_class_folders(tmp_path / os.fsdecode(b"dossier \xe9t\xe9"), 3)
    odd = os.fsdecode(b"caf\xe9")
    (folder / "007").rename(folder / odd)
    (folder / odd / "00.jpg").rename(folder / odd / os.fsdecode(b"line\nbreak \xff.jpg"))
    result = train(TrainOptions(train_dir=str(folder), val_dir=str(folder), **FAST))
    assert result.classifier.classes == ("blue sky", r"caf\xe9", "grün")
    (tmp_path / "plain").symlink_to(folder)  # MLflow itself takes no text that is not UTF-8
    scored = mlflow.pyfunc.load_model(result.model_uri).predict(str(tmp_path / "plain"))
    assert len(scored) == 9
    assert set(scored["error"]) == {""}
    assert scored.columns[3] == r"Scored Probabilities_caf\xe9"


def test_skipping_bad_images_trains_on_the_others(workdir, tmp_path, capfd):
    folder = write_class_folders(tmp_path / "some bad", 6)
    (folder / "007" / "zero.jpg").touch()
    (folder / "grün" / "text.png").write_text("not a picture")
    train(TrainOptions(train_dir=str(folder), on_bad_image="skip", **FAST))
    assert "left out 2 unreadable images: 007/zero.jpg, grün/text.png" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "exit_code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.thorough)]
)
def test_a_signal_ends_the_run_killed(workdir, images, sent, exit_code):
    options = flags(FAST | {"epochs": 1000, "patience": 1000})
    with start_cli("train", "--train-dir", images / "train", *options) as process:
        for line in process.stderr:
            if "epoch 2/1000" in line:
                break
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == exit_code
    assert "Traceback" not in errors
    (run,) = mlflow.search_runs(output_format="list")
    assert run.info.status == "KILLED"


def test_a_registry_that_is_down_is_named_before_training(workdir, images):
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    result = run_main("train", "--train-dir", images / "train", *flags(FAST))
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("mlflow-resnet: MLflow at http://127.0.0.1:9 does not answer")
    assert "epoch" not in result.stderr


def test_train_from_s3(workdir, images, s3):
    from helpers import upload

    uri = upload(s3, images / "train", "colors/train")
    result = train(options(images, train_dir=uri))
    (train_set,) = [d.dataset for d in mlflow.get_run(result.run_id).inputs.dataset_inputs if d.dataset.name == "train"]
    assert (train_set.source_type, train_set.source) == ("s3", f'{{"uri": "{uri}"}}')


def test_the_package_runs_from_a_clone_without_installation(workdir, images):
    result = run_cli("--version", cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_finite_weights_that_predict_no_numbers_are_a_divergence(workdir, images):
    problem = r"^the outputs for the validation images became nan, although the training loss was [0-9.]+, in epoch 1, "
    with pytest.raises(TrainingDivergedError, match=f"{problem}.*give more images, a larger --crop-size"):
        train(options(images, learning_rate=30.0, warmup_epochs=0))


def test_a_model_is_registered_once_under_any_name(trained):
    first, again = (register(trained.model_uri, "anna's colors") for _ in range(2))
    assert first.version == again.version
