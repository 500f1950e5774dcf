"""The options of every verb but `train`: names, defaults, units and checks."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    BATCH_SIZE,
    DEVICE,
    IMAGE_DIR_LABELED,
    MAX_SEED,
    NUM_WORKERS,
    ON_BAD_IMAGE,
    Options,
    alias_problems,
    model_name_problems,
    option,
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
