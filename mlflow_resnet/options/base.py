"""Base of all options classes: fields with help texts and limits."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from functools import partial
from operator import ge, gt, le, lt
from typing import Any, ClassVar, Literal

from mlflow_resnet.io.text.characters import is_utf8, join_names, presentable
from mlflow_resnet.io.text.places import local_path, place_problem
from mlflow_resnet.options.formats import BACKEND_PRECISIONS

AUTO: Literal["auto"] = "auto"  # a value that the recipe decides
MAX_SEED = 2**63  # what torch takes
HERE: Literal["here"] = "here"  # of a place: on this machine
HERE_OR_IN_S3: Literal["here or in S3"] = "here or in S3"
Place = Literal["", "here", "here or in S3"]
LINE_LENGTH = 100  # characters of a command that MLflow's pages show without scrolling
COMPARISONS = {"at_least": ge, "above": gt, "below": lt, "at_most": le}

PRECISIONS = ("auto", "bf16", "fp32")
SMALLEST_RESOLUTION, LARGEST_RESOLUTION = 32, 1024
AZUREML = "azureml"
PLATFORMS = ("", AZUREML)
IMAGE_DIR_LABELED = "directory of class folders, local or s3://"
ALIAS_TO_MOVE = "alias to move"


class Affects(Enum):
    """What an option of `train` has an effect on; WEIGHTS until its field says otherwise."""

    NOTHING = "progress, checkpoints and how images are read: nothing that a training leaves"
    MACHINE = "where the same weights are computed"
    OUTCOME = "what becomes of a training and of its model"
    IMAGES = "which directories are read; images are known by their digest"
    CONDITIONS = "what the trials of a sweep must share, so that they can be compared"
    WEIGHTS = "the weights; a sweep may vary it"


def option(
    help: str,  # noqa: A002 - click's word for it
    default: Any = MISSING,
    affects: Affects = Affects.WEIGHTS,
    *,
    section: str = "",
    choices: tuple[str, ...] = (),
    is_argument: bool = False,
    place: Place = "",
    **limits: float,
) -> Any:
    """Returns a dataclass field with help text and limits, those of `COMPARISONS`. `auto` is not checked.

    On the command line an argument is known by its position, and has no name. The text of a `place` names a file or
    folder, which may be there. `section` begins a section of `--help`, which the fields after it belong to.
    """
    role = {"section": section, "affects": affects, "is_argument": is_argument, "place": place}
    return field(default=default, metadata={"help": help, "choices": choices, "limits": limits} | role)


def names_affecting(options: type[Options], *kinds: Affects) -> tuple[str, ...]:
    """Return the names of the options that affect one of `kinds`, in their order."""
    return tuple(each.name for each in fields(options) if each.metadata["affects"] in kinds)


batch_size_option = partial(option, "images per forward pass", 32, at_least=1)
device_option = partial(option, "auto, cpu, cuda, cuda:N or mps", "auto")
num_workers_option = partial(option, "threads that decode images; 0: one per core", 0, at_least=0)
follow_links_option = partial(
    option, "follow links that lead out of the directory, as DVC, git-annex and Hugging Face's cache have them", False
)
on_bad_image_option = partial(
    option, "error: list unreadable images and stop; skip: leave them out", "error", choices=("error", "skip")
)
csv_formulas_option = partial(
    option,
    "text in CSV files that a spreadsheet would run: with an apostrophe in front (quoted), or as it is (raw)",
    "quoted",
    choices=("quoted", "raw"),
)
tta_option = partial(
    option,
    "flip: average the probabilities of each image and its mirror image; empty: the image alone",
    "",
    choices=("", "flip"),
)
serving_for_option = partial(
    option,
    "have the model require what this platform serves it with; azureml: deployment without a script",
    "",
    choices=PLATFORMS,
)
resolution_option = partial(
    option, "crop_size to look at images with, in pixels, resize_size in proportion; 0: as trained", 0
)
backend_option = partial(
    option,
    "what predicts; auto: what the model is configured for, which is torch unless it was exported",
    AUTO,
    choices=(AUTO, *BACKEND_PRECISIONS),
)
scoring_precision_option = partial(
    option,
    "auto: bf16 where it is faster and passed its check in training, else fp32",
    AUTO,
    choices=(*PRECISIONS, "int8"),
)


def find_value_problems(name: str, value: Any, metadata: Any) -> Iterator[str]:
    """Yields one sentence for each problem of `value`."""
    if metadata["choices"] and value not in metadata["choices"]:
        choices = [choice or "empty" for choice in metadata["choices"]]
        yield f"{name} is {presentable(repr(value)):.60}; choose one of {join_names(choices)}"
    if metadata["place"] and (problem := place_problem(value, in_s3=metadata["place"] == HERE_OR_IN_S3)):
        yield f"{name} {presentable(repr(value)):.300} {problem}"
    for limit, bound in metadata["limits"].items():
        if value != AUTO and not COMPARISONS[limit](value, bound):
            yield f"{name} is {value}; it must be {limit.replace('_', ' ')} {bound}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base: checks every field and then `combinations()`, and raises one error that names all problems.

    Places on this machine are paths from then on, also where `file:///path` was given.
    """

    verb: ClassVar[str]  # as the command line calls it
    examples: ClassVar[str]

    def __init_subclass__(cls) -> None:
        cls.verb = cls.__module__.rpartition(".")[2].replace("_", "-")

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.metadata["place"]:
                object.__setattr__(self, each.name, local_path(os.fspath(getattr(self, each.name))))
        if found := self.problems():
            from mlflow_resnet.errors import InvalidOptionsError  # imports mlflow, which takes a second

            raise InvalidOptionsError(found)

    @classmethod
    def find_problems(cls, values: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the values of all fields, without raising an error, which imports mlflow."""
        unchecked = object.__new__(cls)
        vars(unchecked).update(values)
        return unchecked.problems()

    def problems(self) -> list[str]:
        """What is wrong with the fields, one sentence each."""
        found = [p for f in fields(self) for p in find_value_problems(f.name, getattr(self, f.name), f.metadata)]
        return [*found, *self.combinations()]

    def command(self) -> str:
        """The command with these options, without those that have their defaults; each on a line if they are many.

        It is to be shown: no value is on several lines, or has credentials.
        """
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]
        flags = [shlex.join([f"--{name.replace('_', '-')}", presentable(value)]) for name, value in given]
        parts = [f"mlflow-resnet {self.verb}", *flags]
        line = " ".join(parts)
        return line if len(line) <= LINE_LENGTH else " \\\n    ".join(parts)

    def combinations(self) -> Iterable[str]:
        """Returns problems of combinations of fields."""
        return ()


def alias_problems(alias: str, registered_model_name: str) -> Iterator[str]:
    """Yields why `alias` cannot be set; MLflow reserves `latest` and v<number>."""
    if not alias:
        return
    if alias.lower() == "latest" or (alias[0] in "vV" and alias[1:].isdigit()):
        yield f"alias is {alias!r}, which MLflow reserves; choose another, such as champion"
    elif not alias.replace("-", "").replace("_", "").isalnum():
        yield f"alias is {alias!r}; use letters, digits, _ and - only"
    if not registered_model_name:
        yield f"alias is {alias!r} but registered_model_name is empty; give the name to register under"


def model_name_problems(name: str) -> list[str]:
    """Returns why MLflow would refuse `name` for a registered model."""
    if not is_utf8(name):
        return [f"registered_model_name is {presentable(name)}, which is not UTF-8; give another name"]
    if "/" in name or ":" in name or (name and not name.strip()):
        return [f"registered_model_name is {name!r}; MLflow allows no / and no : in it, and not only spaces"]
    return []


def resolution_problems(resolution: int) -> list[str]:
    """Returns why `resolution` is not possible."""
    if resolution == 0 or SMALLEST_RESOLUTION <= resolution <= LARGEST_RESOLUTION:
        return []
    return [f"resolution is {resolution}; it must be 0, or from {SMALLEST_RESOLUTION} to {LARGEST_RESOLUTION}"]


def find_missing_alias(alias: str) -> list[str]:
    """Why `alias` of a version cannot be moved."""
    return list(alias_problems(alias, "the version's own")) if alias else ["alias is empty"]
