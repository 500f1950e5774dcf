"""Scores images to a file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from mlflow_resnet._version import __version__
from mlflow_resnet.errors import OutputError
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.io.console import say
from mlflow_resnet.io.destinations import resumable_destination
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.model.prediction import Predictor
from mlflow_resnet.options.score import ScoreOptions
from mlflow_resnet.scoring.columns import build_scored_frame
from mlflow_resnet.scoring.to_file.batch import WRITERS, ScoredFile, build_scored_table, join, score_to_parts
from mlflow_resnet.scoring.to_file.parts import Parts
from mlflow_resnet.scoring.to_file.scoring_progress import ScoringProgress
from mlflow_resnet.scoring.to_file.selection import Selection
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.verbs.frame import check_model_servers, open_predictor


def score(options: ScoreOptions) -> ScoredFile:
    """Scores every image below a directory or in a list, or a part, to a file that appears complete or not at all.

    Rows are kept in a hidden folder beside the file, or in the cache if it is in S3, every few seconds. If a call is
    killed or fails, the next one with the same model, images and options goes on after the last of them, in the order
    of `directory_sources`, and gives the rows that one call without interruption gives. Of images that were added,
    changed or removed meanwhile, it sees those that come after that place; rows that were kept stay as they are, and
    their images are not read again.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only a row.
    """
    with end_attached_run():
        if Path(options.output).suffix not in WRITERS:
            raise OutputError(options.output, f"unknown format; end the name with one of {', '.join(WRITERS)}.")
        images = Selection(options.image_dir, *options.part, options.follow_links)
        images.check()
        check_model_servers(options.model_uri)
        ignored: Counter[str] = Counter()
        with resumable_destination(options.output) as path:
            identity = images.identity()
            predictor = open_predictor(options.model_uri, options, options.precision, options.backend)
            predictor = predictor.at_test_time(options.tta, options.resolution)
            parts = Parts(path.parent, identify_rows(options, predictor) | identity)
            done = parts.progress
            with ScoringProgress("scoring", "img", done.rows, items=images.items()) as progress:
                score_to_parts(
                    predictor,
                    images.sources(ignored, after=done.last),
                    parts,
                    batch_size=options.batch_size,
                    top_k=options.top_k,
                    min_confidence=options.min_confidence,
                    on_rows=progress.advance,
                )
            if parts.progress.rows == 0:
                if not options.shard:
                    raise no_images(options.image_dir, Ignored(**ignored))
                empty = build_scored_frame([], predictor.classes, options.top_k)  # the file has its columns
                parts.add(build_scored_table(empty), unreadable=0, unsure=0, last="")
            with ScoringProgress("writing", "row", total=parts.progress.rows) as progress:
                scored = join(parts, path, options.output, progress.advance, options.csv_formulas)
            say(f"{scored.rows} images in {options.image_dir}", str(Ignored(**ignored)))
    return scored


def identify_rows(options: ScoreOptions, predictor: Predictor) -> dict[str, Any]:
    """Returns what two calls must share, besides the images, for one to resume the other's rows.

    The size of batches and the device are not in it: they decide no more than the rounding.
    """
    return {
        "model": predictor.model_sha256,
        "backend": options.backend,
        "precision": predictor.precision,
        "top_k": options.top_k,
        "min_confidence": options.min_confidence,
        "tta": options.tta,
        "resolution": options.resolution,
        "version of mlflow_resnet": __version__,
    }


SHOWN_REASONS = 5


def summarize_score(result: ScoredFile, options: ScoreOptions) -> str:
    lines = [f"{result.rows} images scored to {result.path}"]
    if result.unreadable:
        lines.append(f"{result.unreadable} of them could not be read; the column `error` says why")
        lines += [f"  {each.count}  {each.text}, such as {each.example}" for each in result.reasons[:SHOWN_REASONS]]
        lines += ["  …"] if len(result.reasons) > SHOWN_REASONS else []
    if result.unsure:
        lines.append(f"{result.unsure} of them have no label, because no class has the --min-confidence")
    return in_lines(lines)
