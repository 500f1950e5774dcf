"""Exports a model to other formats and measures the difference."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mlflow_resnet import flavor
from mlflow_resnet.errors import InvalidDatasetError, InvalidImageError, InvalidModelError
from mlflow_resnet.evaluation.calibration import log_probabilities
from mlflow_resnet.evaluation.evaluation import Evaluation, evaluate_directory
from mlflow_resnet.images.directories import spread_evenly
from mlflow_resnet.images.sources import check_directories, fetch_labeled_directory, file_source
from mlflow_resnet.io.atomic import new_directory
from mlflow_resnet.io.console import say
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.io.own_folders import mark_own
from mlflow_resnet.io.parallel import default_threads, map_ordered
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.io.text.places import result_place
from mlflow_resnet.model.classifier import ImageClassifier
from mlflow_resnet.model.engines import ENGINES, quantize
from mlflow_resnet.model.forwards import load_forward
from mlflow_resnet.model.precision import LARGEST_ACCURACY_LOSS
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.model.prepared import Forward
from mlflow_resnet.model.storage import digest_classifier, write_description, write_export
from mlflow_resnet.options.export import ExportOptions
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.data import scan_dataset
from mlflow_resnet.tracking.dataset import ImageDirectoryDataset
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import end_attached_run, enter_run
from mlflow_resnet.tracking.server import check_servers
from mlflow_resnet.verbs.frame import check_model_servers

CALIBRATION_IMAGES = 300


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported model with torch in fp32 on labeled images."""

    images: int
    label_agreement: float  # fraction of images to which both give the same class
    log_probability_difference: float  # the largest one, of any class and image, in nats
    accuracy: float  # top-1, a fraction
    accuracy_of_fp32: float


@dataclass(frozen=True)
class Exported:
    """Result of `export`: files, agreement and the registered version."""

    path: Path | str  # text if it is in S3
    parity: Parity
    model_uri: str  # empty if no version was asked for


def export(options: ExportOptions) -> Exported:
    """Writes a model in another format to a directory that appears complete or not at all, and registers it if asked.

    Raises:
        InvalidModelError: if int8 loses more than half a point of accuracy.
        MlflowResnetError: for anything else a user can cause.
    """
    with end_attached_run():
        for image_dir in filter(None, (options.image_dir, options.calibration_dir)):
            check_directories(image_dir)
        check_model_servers(options.model_uri)
        if options.registered_model_name:
            check_servers(registry=True)
        with destination(options.output_dir) as place:
            with new_directory(place) as folder:
                mark_own(folder)
                classifier = flavor.load_model(options.model_uri)
                data = scan_dataset(options.image_dir, options, "evaluation")
                engine = ENGINES[options.format]
                say(f"converting to {options.format}")
                model = engine.convert(classifier, options.precision)
                if options.precision == "int8":
                    pictures = calibration_pictures(classifier, options)
                    say(f"quantizing with {len(pictures)} images")
                    model = quantize(engine, model, pictures)
                engine.save(model, folder)
                write_export(folder, options.format, options.precision, digest_classifier(classifier))
                parity = compare_export(classifier, options, folder, data)
                write_description(classifier, folder)
            model_uri = ""
            if options.registered_model_name:
                model_uri = register_export(classifier, options, place, data, parity)
    return Exported(result_place(options.output_dir), parity, model_uri)


def calibration_pictures(classifier: ImageClassifier, options: ExportOptions) -> list[np.ndarray]:
    """Evenly spread over the directory, as the network sees them: uint8 of shape (1, 3, image_size, image_size) each.

    Those that cannot be read are left out.
    """

    def load(path: str) -> np.ndarray | None:
        try:
            return classifier.preprocessing.load(file_source(path).read()).unsqueeze(0).contiguous().numpy()
        except InvalidImageError:
            return None

    directory = fetch_labeled_directory(options.calibration_dir, follow_links=options.follow_links)
    paths = [directory.paths[index] for index in spread_evenly(len(directory), CALIBRATION_IMAGES)]
    found = map_ordered(load, paths, options.num_workers or default_threads())
    pictures = [picture for picture in found if picture is not None]
    if not pictures:
        raise InvalidDatasetError(options.calibration_dir, "none of the images tried can be read")
    return pictures


def compare_export(
    classifier: ImageClassifier, options: ExportOptions, folder: Path, data: ImageDirectoryDataset
) -> Parity:
    """Compares the model in `folder` with torch in fp32.

    Raises:
        InvalidModelError: if int8 loses too much.
    """

    def evaluate(precision: str, forward: Forward | None) -> Evaluation:
        predictor = Predictor(classifier, "cpu", options.num_workers, precision, forward)
        return evaluate_directory(predictor, data.directory, options.batch_size)

    forward = load_forward(classifier, folder)
    fp32, exported = evaluate("fp32", None), evaluate(options.precision, forward)
    labels = exported.probabilities.argmax(axis=1) == fp32.probabilities.argmax(axis=1)
    difference = np.abs(log_probabilities(exported.probabilities) - log_probabilities(fp32.probabilities))
    accuracy, accuracy_of_fp32 = float(exported.hits.mean()), float(fp32.hits.mean())
    loss = accuracy_of_fp32 - accuracy
    if options.precision == "int8" and loss > LARGEST_ACCURACY_LOSS:
        raise InvalidModelError(
            options.model_uri,
            f"int8 has an accuracy of {accuracy:.4f} on the {len(labels)} images, {loss:.4f} less than fp32; "
            f"{LARGEST_ACCURACY_LOSS} is allowed. Nothing was written. Calibrate on more training images, "
            "or export bf16 or fp32.",
        )
    return Parity(len(labels), float(labels.mean()), float(difference.max()), accuracy, accuracy_of_fp32)


def register_export(
    classifier: ImageClassifier, options: ExportOptions, folder: Path, data: ImageDirectoryDataset, parity: Parity
) -> str:
    """Registers a model that predicts with the files in `folder`, and returns its URI."""
    with enter_run(f"export {options.model_uri}", asdict(options)) as run:
        recorder = make_recorder(run)
        record.log_params(recorder, asdict(options))
        record.log_metrics(recorder, asdict(parity), data)
        info = flavor.log_model(
            classifier,
            exports=[folder],
            model_config={"backend": options.format, "precision": options.precision},
            registered_model_name=options.registered_model_name,
            serving_for=options.serving_for,
        )
    return f"models:/{options.registered_model_name}/{info.registered_model_version}"


def summarize_export(result: Exported, options: ExportOptions) -> str:
    parity = result.parity
    lines = [
        f"{parity.images} images compared with torch in fp32",
        f"same label for {parity.label_agreement:.4f}",
        f"log probabilities differ by {parity.log_probability_difference:.2g} at most",
        f"accuracy {parity.accuracy:.4f} ({parity.accuracy - parity.accuracy_of_fp32:+.4f})",
        f"model     {result.path}",
    ]
    return in_lines(lines + ([f"registry  {result.model_uri}"] if result.model_uri else []))
