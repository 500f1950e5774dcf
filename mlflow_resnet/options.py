"""The options of every command: names, defaults, units and checks, in one frozen dataclass per verb.

The command line, the MLproject parameters and a run's params all derive from these fields. "" and 0 mean "not given"
where the help says so, because MLproject parameters are strings with a default.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar

from mlflow_resnet.errors import InvalidOptionsError, listed

ARCHITECTURES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
)
METRICS = (
    "top1_accuracy",
    "top5_accuracy",
    "log_loss",
    "micro_precision",
    "micro_recall",
    "micro_f1",
    "macro_precision",
    "macro_recall",
    "macro_f1",
)
MAX_SEED = 2**63  # what torch takes
RESERVED_ALIASES = ("latest",)  # MLflow also reserves v<number>


def option(
    help: str,  # noqa: A002 - click's word for it
    default: Any = MISSING,
    *,
    choices: tuple[str, ...] = (),
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field that knows its help text and the values it may take."""
    metadata = {"help": help, "choices": choices, "at_least": at_least, "above": above, "below": below}
    return field(default=default, metadata=metadata)


def problems_of(name: str, value: Any, metadata: Any) -> Iterator[str]:
    """What is wrong with `value`, one sentence each."""
    if metadata["choices"] and value not in metadata["choices"]:
        yield f"{name} is {value!r}; choose one of {listed(metadata['choices'])}"
    if metadata["at_least"] is not None and not value >= metadata["at_least"]:
        yield f"{name} is {value}; it must be at least {metadata['at_least']}"
    if metadata["above"] is not None and not value > metadata["above"]:
        yield f"{name} is {value}; it must be above {metadata['above']}"
    if metadata["below"] is not None and not value < metadata["below"]:
        yield f"{name} is {value}; it must be below {metadata['below']}"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base: checks every field and then `combinations()`, and raises one error that names all problems."""

    verb: ClassVar[str]

    def __post_init__(self) -> None:
        found = [p for f in fields(self) for p in problems_of(f.name, getattr(self, f.name), f.metadata)]
        found += self.combinations()
        if found:
            raise InvalidOptionsError(found)

    def combinations(self) -> list[str]:
        """Problems that only show when fields are seen together."""
        return []


def alias_problems(alias: str, registered_model_name: str) -> list[str]:
    """Why `alias` cannot be set; MLflow reserves `latest` and v<number>."""
    if not alias:
        return []
    problems = []
    if alias.lower() in RESERVED_ALIASES or (alias[0] in "vV" and alias[1:].isdigit()):
        problems.append(f"alias is {alias!r}, which MLflow reserves; choose another, such as champion")
    elif not alias.replace("-", "").replace("_", "").isalnum():
        problems.append(f"alias is {alias!r}; use letters, digits, _ and - only")
    if not registered_model_name:
        problems.append(f"alias is {alias!r} but registered_model_name is empty; give the name to register under")
    return problems


def model_name_problems(name: str) -> list[str]:
    """Why MLflow would refuse `name` for a registered model."""
    if "/" in name or ":" in name or (name and not name.strip()):
        return [f"registered_model_name is {name!r}; MLflow allows no / and no : in it, and not only spaces"]
    return []


BATCH_SIZE = "images per forward pass"
DEVICE = "auto, cpu, cuda, cuda:N or mps"
NUM_WORKERS = "threads that decode images; 0: one per core"
ON_BAD_IMAGE = "error: list unreadable images and stop; skip: leave them out"
IMAGE_DIR_LABELED = "directory of class folders, local or s3://"


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Options of `train`, with the Azure designer's defaults."""

    verb = "train"

    train_dir: str = option("directory of class folders to train on, local or s3://")
    val_dir: str = option("directory of class folders to validate on; empty: split off val_fraction", "")
    val_fraction: float = option("fraction of train_dir held out, if val_dir is empty", 0.2, above=0, below=1)
    architecture: str = option("network", "resnext101_32x8d", choices=ARCHITECTURES)
    pretrained: bool = option("start from torchvision's default ImageNet weights", True)
    weights: str = option(
        "start from these instead: IMAGENET1K_V1, IMAGENET1K_V2, a .pth or .safetensors file (local or s3://), "
        "or a model URI",
        "",
    )
    zero_init_residual: bool = option("start each residual branch at zero (without pretrained weights)", False)
    epochs: int = option("passes over the training images", 5, at_least=1)
    batch_size: int = option("images per step", 16, at_least=2)
    learning_rate: float = option("highest learning rate", 0.001, above=0)
    warmup_epochs: int = option("epochs over which the learning rate rises linearly", 0, at_least=0)
    random_seed: int = option("seed of split, head, order and augmentation", 1, at_least=0, below=MAX_SEED)
    patience: int = option("stop after this many epochs without a new best", 3, at_least=1)
    print_frequency: int = option("iterations between progress lines", 10, at_least=1)
    resize_size: int = option("pixels of the shorter edge before the crop", 256, at_least=1)
    crop_size: int = option("pixels of the square the network sees", 224, at_least=1)
    random_resized_crop: bool = option("augment: crop a random region of 8 to 100 % of the area", True)
    random_horizontal_flip: bool = option("augment: mirror every other image", True)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)
    registered_model_name: str = option("register the model under this name; empty: do not register", "")
    alias: str = option("set this alias on the registered version; empty: none", "")

    def combinations(self) -> list[str]:
        problems = alias_problems(self.alias, self.registered_model_name)
        problems += model_name_problems(self.registered_model_name)
        if self.crop_size > self.resize_size:
            problems.append(f"crop_size {self.crop_size} is above resize_size {self.resize_size}; raise resize_size")
        if self.warmup_epochs > self.epochs:
            problems.append(f"warmup_epochs {self.warmup_epochs} is more than epochs {self.epochs}")
        return problems


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of `score`."""

    verb = "score"

    model_uri: str = option("model to score with, such as models:/digits@champion")
    image_dir: str = option("images at any depth below this directory, local or s3://")
    output: str = option("file to write: .parquet, .csv or .jsonl")
    top_k: int = option("write the k most probable classes instead of all; 0: all", 0, at_least=0)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    device: str = option(DEVICE, "auto")
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Options of `evaluate`."""

    verb = "evaluate"

    model_uri: str = option("model to evaluate, such as models:/digits/1")
    image_dir: str = option(IMAGE_DIR_LABELED)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(Options):
    """Options of `promote`."""

    verb = "promote"

    model_uri: str = option("candidate version, such as models:/digits/2")
    image_dir: str = option(IMAGE_DIR_LABELED + "; candidate and champion are both measured on it")
    alias: str = option("alias to move", "champion")
    metric: str = option("metric to compare", "top1_accuracy", choices=METRICS)
    max_drop: float = option("how much worse than the champion it may be, in the metric's unit", 0.0, at_least=0)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        return alias_problems(self.alias, "the version's own") or ([] if self.alias else ["alias is empty"])


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Options of `convert`."""

    verb = "convert"

    source: str = option("folder, .zip, .tar or .tar.gz of images")
    output_dir: str = option("image directory to write; must not exist or be empty")


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Options of `split`."""

    verb = "split"

    image_dir: str = option("directory of class folders")
    train_dir: str = option("directory to write the first part to; must not exist or be empty")
    val_dir: str = option("directory to write the second part to; must not exist or be empty")
    fraction: float = option("fraction of the images that goes to train_dir", 0.9, above=0, below=1)
    train_count: int = option("images for train_dir, instead of fraction; 0: by fraction", 0, at_least=0)
    val_count: int = option("images for val_dir; 0: all the others", 0, at_least=0)
    random_seed: int = option("seed of the split", 1, at_least=0, below=MAX_SEED)


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Options of `demo`."""

    verb = "demo"

    output_dir: str = option("directory for the images and the scored file", "digits-demo")
    random_seed: int = option("seed of the split and the training", 1, at_least=0, below=MAX_SEED)
    registered_model_name: str = option("name to register the model under", "digits")
    alias: str = option("alias to set on the registered version", "champion")

    def combinations(self) -> list[str]:
        return alias_problems(self.alias, self.registered_model_name) + model_name_problems(self.registered_model_name)


VERBS: tuple[type[Options], ...] = (
    TrainOptions,
    ScoreOptions,
    EvaluateOptions,
    PromoteOptions,
    ConvertOptions,
    SplitOptions,
    DemoOptions,
)
