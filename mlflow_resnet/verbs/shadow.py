"""Compares a challenger's predictions with the champion's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import tee
from pathlib import Path

import pandas as pd
from PIL import Image
from tqdm import tqdm

from mlflow_resnet.errors import InvalidOptionsError, join_names, printable
from mlflow_resnet.evaluation.galleries import WRONG, mosaic, tile
from mlflow_resnet.evaluation.report import picture
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import ImageSource, check_directories, directory_sources
from mlflow_resnet.io.text.characters import LISTED, format_rows, in_lines
from mlflow_resnet.model.prediction import Prediction, Predictor
from mlflow_resnet.options.shadow import ShadowOptions
from mlflow_resnet.tracking import record
from mlflow_resnet.tracking.record import make_recorder
from mlflow_resnet.tracking.run import end_attached_run, enter_run
from mlflow_resnet.verbs.frame import check_model_servers, open_predictor

FOLDER = "shadow"
DISAGREEMENTS, CHANGES, GALLERY = "disagreements.parquet", "changes.json", "disagreements.png"
ANSWER_COLUMNS = ["image", "champion", "champion_confidence", "challenger", "challenger_confidence"]
PICTURES = 16


@dataclass(frozen=True)
class AnswerPair:
    """Both models' labels of an image, and their confidences."""

    source: ImageSource
    champion: str
    champion_confidence: float
    challenger: str
    challenger_confidence: float


@dataclass(frozen=True)
class Shadowed:
    """Result of `shadow`: agreement of challenger and champion.

    Attributes:
        images: that both could read.
        table: a row per image with different labels, those that both were sure of first; columns `ANSWER_COLUMNS`.
        confidences: mean of the champion's and of the challenger's.
    """

    images: int
    unreadable: int
    table: pd.DataFrame
    confidences: tuple[float, float]
    run_id: str

    @property
    def agreement(self) -> float:
        """Fraction of the images that get the same label."""
        return 1 - len(self.table) / self.images


def shadow(options: ShadowOptions) -> Shadowed:
    """Predicts images with two models, and logs a run with how often and where their labels differ.

    Raises:
        InvalidOptionsError: if the models do not have the same classes.
        MlflowResnetError: for anything else a user can cause.
    """
    with end_attached_run():
        check_directories(options.image_dir)
        for uri in (options.champion, options.challenger):
            check_model_servers(uri)
        champion, challenger = (open_predictor(uri, options) for uri in (options.champion, options.challenger))
        if different := sorted(set(champion.classes) ^ set(challenger.classes)):
            problem = f"only one of champion and challenger has the classes {join_names(different)}"
            raise InvalidOptionsError([f"{problem}; compare models of the same"])
        ignored = Counter[str]()
        tally = Tally()
        sources = directory_sources(options.image_dir, ignored, follow_links=options.follow_links)
        pairs = answers(champion, challenger, sources, options.batch_size)
        for answer in tqdm(pairs, desc="shadowing", unit="img", leave=False, disable=None):
            tally.add(answer)
        if not tally.images:
            raise no_images(options.image_dir, Ignored(**ignored))
        with enter_run(f"shadow {options.challenger}", asdict(options)) as run:
            recorder = make_recorder(run)
            record.log_params(recorder, asdict(options))
            confidences = tally.sums[0] / tally.images, tally.sums[1] / tally.images
            result = Shadowed(tally.images, tally.unreadable, tally.table, confidences, run.info.run_id)
            metrics = {
                "champion_confidence": confidences[0],
                "challenger_confidence": confidences[1],
                "agreement": result.agreement,
                "images": result.images,
                "unreadable": result.unreadable,
                "disagreements": len(result.table),
            }
            record.log_metrics(recorder, {f"{FOLDER}/{name}": value for name, value in metrics.items()})
            record.log_files(recorder, lambda folder: tally.write(folder, champion), FOLDER, [CHANGES])
    return result


def answers(
    champion: Predictor, challenger: Predictor, sources: Iterable[ImageSource], batch_size: int
) -> Iterator[AnswerPair | None]:
    """Yields both models' answers for each image, in order; None if it cannot be read."""
    own, first, second = tee(sources, 3)
    both = zip(own, champion.predict(first, batch_size), challenger.predict(second, batch_size), strict=True)
    for source, old, new in both:
        known, found = best(champion, old), best(challenger, new)
        yield AnswerPair(source, *known, *found) if known and found else None


def best(predictor: Predictor, prediction: Prediction) -> tuple[str, float] | None:
    if prediction.probabilities is None:
        return None
    index = int(prediction.probabilities.argmax())
    return predictor.classes[index], float(prediction.probabilities[index])


class Tally:
    """Counts answers and keeps disagreements."""

    def __init__(self) -> None:
        self.images = self.unreadable = 0
        self.sums = [0.0, 0.0]
        self.different: list[AnswerPair] = []

    def add(self, answer: AnswerPair | None) -> None:
        if answer is None:
            self.unreadable += 1
            return
        self.images += 1
        self.sums[0] += answer.champion_confidence
        self.sums[1] += answer.challenger_confidence
        if answer.champion != answer.challenger:
            self.different.append(answer)

    @cached_property
    def disagreements(self) -> list[AnswerPair]:
        """Those that both models are surest of first."""
        return sorted(self.different, key=lambda answer: -min(answer.champion_confidence, answer.challenger_confidence))

    @cached_property
    def table(self) -> pd.DataFrame:
        rows = [{"image": printable(answer.source.name)} | vars(answer) for answer in self.disagreements]
        return pd.DataFrame(rows, columns=ANSWER_COLUMNS)

    def write(self, folder: Path, predictor: Predictor) -> None:
        """The table, its counts by labels, and pictures of the answers that both are surest of."""
        self.table.to_parquet(folder / DISAGREEMENTS, index=False)
        counts = self.table.groupby(["champion", "challenger"]).size().rename("images").reset_index()
        counts.sort_values("images", ascending=False).to_json(folder / CHANGES, orient="split", index=False)
        if shown := self.disagreements[:PICTURES]:
            mosaic([draw_answer(answer, predictor) for answer in shown]).save(folder / GALLERY)


def draw_answer(answer: AnswerPair, predictor: Predictor) -> Image.Image:
    lines = [
        f"{answer.champion_confidence:.1%} {answer.champion}",
        f"challenger: {answer.challenger_confidence:.1%} {answer.challenger}",
        printable(answer.source.name).rpartition("/")[2],
    ]
    return tile(picture(predictor.preprocessing, answer.source), lines, WRONG)


def summarize_shadow(result: Shadowed, options: ShadowOptions) -> str:
    """Formats the agreement and the most confident disagreements."""
    lines = [
        f"agreement {result.agreement:.4f} on {result.images} images, {len(result.table)} get another label",
        f"confidence of the champion {result.confidences[0]:.4f}, of the challenger {result.confidences[1]:.4f}",
    ]
    if result.unreadable:
        lines.append(f"{result.unreadable} images could not be read")
    if len(result.table):
        lines += ["", *format_rows(result.table.head(LISTED)), ""]
    return in_lines([*lines, f"table and pictures are in shadow/ of run {result.run_id}"])
