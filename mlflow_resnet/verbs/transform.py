"""Transforms pictures on disk (Azure: *Init* and *Apply Image Transformation*).

Training does not need it: it draws anew in every epoch, and scoring does what the model says. It is for those who want
to see the pictures, or train with something else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from torchvision.transforms import v2
from tqdm import tqdm

from mlflow_resnet.errors import InvalidImageError, InvalidOptionsError, join_names
from mlflow_resnet.images.conversion.entries import Entry, list_place_entries
from mlflow_resnet.images.decoding.decode import decode
from mlflow_resnet.images.directories import no_images
from mlflow_resnet.images.pictures import encode_png, write_png
from mlflow_resnet.images.rules import Ignored
from mlflow_resnet.images.sources import check_directories
from mlflow_resnet.io.atomic import check_outside, new_directory
from mlflow_resnet.io.destinations import destination
from mlflow_resnet.io.file_names import name_problem
from mlflow_resnet.io.parallel import default_threads, map_ordered
from mlflow_resnet.io.reasons import one_line, os_reason
from mlflow_resnet.io.text.characters import in_lines
from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.model.preprocessing import to_array, to_tensor
from mlflow_resnet.options.transform import TransformOptions
from mlflow_resnet.tracking.run import end_attached_run
from mlflow_resnet.training.input.augmentation import Steps, build_transform
from mlflow_resnet.training.input.randomness import Seeded
from mlflow_resnet.verbs.frame import list_left_out

FIXED_STEPS = ("Resize", "CenterCrop", "Pad", "Grayscale")  # the same for every picture; inference has only these
RANDOM = (
    "ColorJitter",
    "RandomResizedCrop",
    "RandomCrop",
    "RandomHorizontalFlip",
    "RandomVerticalFlip",
    "RandomRotation",
    "RandomAffine",
    "RandomGrayscale",
    "RandomPerspective",
    "RandomErasing",
    "RandAugment",
    "TrivialAugmentWide",
)
# What the designer's module is set to before anybody touches it.
DESIGNER: Steps = [("Resize", {"size": 256}), ("CenterCrop", {"size": 224}), ("RandomHorizontalFlip", {"p": 0.5})]


@dataclass(frozen=True)
class Transformed:
    """Result of `transform`: number of images written, and reasons by place for the others."""

    images: int
    unreadable: dict[str, str]
    steps: list[str]


def transform(options: TransformOptions) -> Transformed:
    """Applies transforms to every image below a directory and writes the results as PNGs.

    Folders and names stay, but for the suffix. What is random is drawn from the seed and the image's name.

    Raises:
        InvalidOptionsError: if the list of transformations cannot be used.
        InvalidDatasetError: if there are no images.
        OutputError: if the directory cannot be written.
    """
    with end_attached_run():
        check_directories(options.image_dir)
        steps = read_steps(Path(options.transformation)) if options.transformation else DESIGNER
        if options.mode == "inference":
            steps = [step for step in steps if step[0] in FIXED_STEPS]
        apply = partial(transform_entry, compose_steps(steps), options.random_seed)
        if not is_remote(options.image_dir) and not is_remote(options.output_dir):
            check_outside(options.image_dir, options.output_dir)
        ignored, unreadable, taken = Counter[str](), dict[str, str](), set[str]()
        entries = list_place_entries(options.image_dir, ignored, options.follow_links)
        with (
            tqdm(desc="transforming", unit="img", leave=False, disable=None) as bar,
            destination(options.output_dir) as place,
            new_directory(place) as folder,
        ):
            for entry, result in map_ordered(apply, entries, options.num_workers or default_threads()):
                if isinstance(result, str):
                    unreadable[entry.source] = result
                else:
                    write_png(folder, entry.name, result, taken)
                bar.update()
            if not taken:
                raise no_images(options.image_dir, Ignored(**ignored))
        return Transformed(len(taken), unreadable, [name for name, _ in steps])


def transform_entry(apply: v2.Transform, seed: int, entry: Entry) -> tuple[Entry, bytes | str]:
    """The entry with its picture as a PNG, or with the reason why there is none."""
    if problem := name_problem(entry.name):
        return entry, f"refused: its name {problem}"
    digest = blake2b(f"{seed}/{entry.name}".encode(errors="surrogateescape"), digest_size=8).digest()
    try:
        picture = to_tensor(to_array(decode(entry.read()), grayscale=False)).contiguous()
        with Seeded(int.from_bytes(digest, "big") >> 1):
            return entry, encode_png(apply(picture).permute(1, 2, 0).numpy())
    except InvalidImageError as error:
        return entry, error.message
    except ValueError as error:  # a random crop larger than the image
        return entry, one_line(error)


def read_steps(path: Path) -> Steps:
    """The transformations in a JSON file: a list of {"name": …, argument: …}, or a run's training.json with one.

    Raises:
        InvalidOptionsError: if there is no such list.
    """
    try:
        content = json.loads(path.read_bytes())
        listing = content["transformations"] if isinstance(content, dict) else content
        return [(step["name"], {key: value for key, value in step.items() if key != "name"}) for step in listing]
    except OSError as error:
        raise InvalidOptionsError([f"transformation {path}: {os_reason(error)}"]) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        example = '[{"name": "Resize", "size": 256}, {"name": "CenterCrop", "size": 224}]'
        raise InvalidOptionsError([f"transformation {path}: no list of transformations, such as {example}"]) from None


def compose_steps(steps: Sequence[tuple[str, dict[str, Any]]]) -> v2.Transform:
    """One transform that does all `steps`.

    Raises:
        InvalidOptionsError: about every step that there is not, or whose arguments it does not take.
    """
    transforms, problems = [], []
    for name, arguments in steps:
        if name not in FIXED_STEPS + RANDOM:
            problems.append(f"transformation {name!r} is unknown; choose of {join_names(FIXED_STEPS + RANDOM)}")
            continue
        try:
            transforms.append(build_transform(name, arguments))
        except (TypeError, ValueError) as error:
            problems.append(f"transformation {name} does not take {arguments} ({one_line(error)})")
    if problems:
        raise InvalidOptionsError(problems)
    return v2.Compose(transforms) if transforms else v2.Identity()


def summarize_transform(result: Transformed, options: TransformOptions) -> str:
    first = f"{result.images} images in {options.output_dir}: {', '.join(result.steps) or 'as they were'}"
    return in_lines([first, *list_left_out(result.unreadable)])
