"""Makes an image directory."""

from __future__ import annotations

from dataclasses import replace

from tqdm import tqdm

from mlflow_resnet.images.conversion.update import Converted, convert_source
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.io.own_folders import LEFT_OUT_NAME
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.options.convert import ConvertOptions
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.verbs.frame import list_left_out


def convert(options: ConvertOptions) -> Converted:
    """Makes an image directory from folders, archives, S3, tables or annotations.

    One that is complete gets what is new, unless it is in S3, where it must be empty.

    Raises:
        MlflowResnetError: for anything a user can cause. A bad image is only left out.
    """
    with (
        end_attached_run(),
        destination(options.output_dir, key=repr(replace(options, num_workers=0))) as place,
        tqdm(desc="converting", unit="img", leave=False, disable=None) as bar,
    ):
        return convert_source(options, place, bar.update)


def summarize_convert(result: Converted, options: ConvertOptions) -> str:
    classes = f" of {len(result.classes)} classes" if result.classes else ", without class folders"
    earlier = result.images - result.added
    by_whom = f", {earlier} by an earlier call" if earlier else ""
    parts = f"{len(result.parts)} parts in " if result.parts else ""
    lines = [f"{result.images} images{classes} in {parts}{options.output_dir}{by_whom}"]
    lines += filter(None, (str(result.ignored), *result.notes, result.advice))
    return in_lines([*lines, *list_left_out(result.unreadable, f"; {LEFT_OUT_NAME} in that folder has them all")])
