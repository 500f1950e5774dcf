"""Writes a heat map and the predicted class for every image below a directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from mlflow_resnet.evaluation.explanations import check_captum, explain_sources
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.pictures import write_png
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import ImageSource, check_directories, directory_sources, make_failing_source
from mlflow_resnet.io.atomic import new_directory
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.own_folders import mark_own
from mlflow_resnet.io.text.characters import encodable, in_lines
from mlflow_resnet.io.text.places import result_place
from mlflow_resnet.io.text.spreadsheets import write_csv
from mlflow_resnet.model.prediction import IMAGE, Prediction
from mlflow_resnet.options.explain import ExplainOptions
from mlflow_resnet.scoring.columns import ERROR, SCORED_LABELS
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.verbs.frame import check_model_servers, open_predictor

EXPLANATION_COLUMNS = [IMAGE, SCORED_LABELS, "confidence", "file", ERROR]
EXPLANATION_TABLE = "index.csv"


@dataclass(frozen=True)
class Explained:
    """Result of `explain`: number of images, number of unreadable ones, and place of the table."""

    images: int
    unreadable: int
    index: Path | str  # text if it is in S3


def explain(options: ExplainOptions) -> Explained:
    """Writes a PNG with a heat map for every image below a directory, and a table of them.

    Folders and names stay, but for the suffix. The directory appears complete or not at all.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only a row.
    """
    with end_attached_run():
        check_captum("explain")
        check_directories(options.image_dir)
        check_model_servers(options.model_uri)
        with destination(options.output_dir) as place, new_directory(place) as folder:
            mark_own(folder)
            predictor = open_predictor(options.model_uri, options)
            ignored = Counter[str]()
            listing = directory_sources(options.image_dir, ignored, follow_links=options.follow_links)
            sources = islice(listing, options.max_images or None)
            with tqdm(desc="explaining", unit="img", leave=False, disable=None) as bar:
                found = explain_sources(predictor, map(confine_source, sources), options.batch_size)
                rows = list(write_explanations(found, predictor.classes, folder, bar.update))
            if not rows:
                raise no_images(options.image_dir, Ignored(**ignored))
            table = pd.DataFrame(rows, columns=EXPLANATION_COLUMNS)
            write_csv(table, folder / EXPLANATION_TABLE, options.csv_formulas)
    return Explained(len(table), int((table[ERROR] != "").sum()), result_place(options.output_dir, EXPLANATION_TABLE))


def write_explanations(
    predictions: Iterable[Prediction], classes: Sequence[str], folder: Path, on_image: Callable[[], object]
) -> Iterator[tuple[str, str, float | None, str, str]]:
    """Writes the explanations to `folder`, and yields the row of each image."""
    taken = set[str]()
    for prediction in predictions:
        if prediction.probabilities is None or prediction.explanation is None:
            yield prediction.name, "", None, "", prediction.error
        else:
            best = int(prediction.probabilities.argmax())
            file = write_png(folder, prediction.place, prediction.explanation, taken)
            yield prediction.name, classes[best], float(prediction.probabilities[best]), encodable(file), ""
        on_image()


def confine_source(source: ImageSource) -> ImageSource:
    """Returns `source`, or a failing source if its name cannot be that of a file in the output."""
    problem = name_problem(source.place)
    return make_failing_source(source.name, f"refused: its name {problem}", source.place) if problem else source


def summarize_explain(result: Explained, options: ExplainOptions) -> str:
    lines = [f"{result.images} images in {result.index}, each that could be read with a heat map beside it"]
    if result.unreadable:
        lines.append(f"{result.unreadable} of them could not be read; the column `error` says why")
    return in_lines(lines)
