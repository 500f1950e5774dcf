"""The options of every verb but `train`: names, defaults, units and checks."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.options.base import (
    BACKEND,
    BACKENDS,
    BATCH_SIZE,
    CSV_FORMULAS,
    DEVICE,
    FOLLOW_LINKS,
    HERE,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    MAX_SEED,
    NUM_WORKERS,
    ON_BAD_IMAGE,
    PRECISIONS,
    RESOLUTION,
    SCORING_PRECISION,
    TTA,
    TTAS,
    Options,
    alias_problems,
    model_name_problems,
    option,
    resolution_problems,
)

FINDINGS = (
    "unreadable",
    "leak",
    "conflict",
    "near_leak",
    "duplicate",
    "near_duplicate",
    "tiny_class",
    "imbalance",
    "blank",
    "dark",
    "bright",
    "blurry",
    "odd_aspect",
)
DUPLICATES = ("ignore", "exact", "near")
SHARD = re.compile("[0-9]{1,9}/[0-9]{1,9}")
TRANSFERS = ("copy", "hardlink", "reference")


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(Options):
    """Options of `score`."""

    verb = "score"

    model_uri: str = option("model to score with, such as models:/digits@champion")
    image_dir: str = option(
        "images at any depth below this directory, local or s3://; or a list of them: .txt, or .csv or .parquet with a "
        "column image or path",
        place=HERE_OR_IN_S3,
    )
    output: str = option("file to write, local or s3://: .parquet, .csv or .jsonl", place=HERE_OR_IN_S3)
    shard: str = option("score only part i of n, i/n such as 2/8, on each of n machines another; empty: all", "")
    top_k: int = option("write the k most probable classes instead of all; 0: all", 0, at_least=0)
    min_confidence: float = option(
        "give no label to images whose most probable class has less than this probability", 0.0, at_least=0, at_most=1
    )
    csv_formulas: str = option(CSV_FORMULAS, "quoted", choices=("quoted", "raw"))
    tta: str = option(TTA, "", choices=TTAS)
    resolution: int = option(RESOLUTION, 0)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    device: str = option(DEVICE, "auto")
    backend: str = option(BACKEND, "auto", choices=BACKENDS)
    precision: str = option(SCORING_PRECISION, "auto", choices=(*PRECISIONS, "int8"))
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    @property
    def part(self) -> tuple[int, int]:
        """Which part of how many."""
        number, _, parts = (self.shard or "1/1").partition("/")
        return int(number), int(parts)

    def combinations(self) -> list[str]:
        problems = resolution_problems(self.resolution)
        if self.shard and not (SHARD.fullmatch(self.shard) and 1 <= self.part[0] <= self.part[1]):
            problems.append(f"shard is {self.shard!r}; it must be i/n with i from 1 to n, such as 2/8")
        return problems


@dataclass(frozen=True, kw_only=True)
class ExplainOptions(Options):
    """Options of `explain`."""

    verb = "explain"

    model_uri: str = option("model to explain, such as models:/digits@champion")
    image_dir: str = option("images at any depth below this directory, local or s3://", place=HERE_OR_IN_S3)
    output_dir: str = option(
        "directory to write PNGs and index.csv to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    max_images: int = option("explain only so many images, the first ones; 0: all", 0, at_least=0)
    csv_formulas: str = option(CSV_FORMULAS, "quoted", choices=("quoted", "raw"))
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    device: str = option(DEVICE, "auto")
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(Options):
    """Options of `evaluate`."""

    verb = "evaluate"

    model_uri: str = option("model to evaluate, such as models:/digits/1")
    image_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    tta: str = option(TTA, "", choices=TTAS)
    resolution: int = option(RESOLUTION, 0)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    backend: str = option(BACKEND, "auto", choices=BACKENDS)
    precision: str = option(SCORING_PRECISION, "auto", choices=(*PRECISIONS, "int8"))
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        return resolution_problems(self.resolution)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Options of `convert`."""

    verb = "convert"

    source: str = option(
        "folder, s3:// prefix, .zip, .tar[.gz|.bz2], table (.csv, .parquet, .jsonl) or COCO annotations (.json)",
        place=HERE_OR_IN_S3,
    )
    output_dir: str = option(
        "image directory to write, local or s3://: new, empty, or, if local, from an earlier call with the same source",
        place=HERE_OR_IN_S3,
    )
    image_root: str = option(
        "folder or s3:// prefix that a table's relative paths begin from; empty: its own", "", place=HERE_OR_IN_S3
    )
    image_column: str = option("a table's column of paths and URIs; empty: image_url, image, path, …", "")
    label_column: str = option("a table's column of labels; empty: label, class, category, …", "")
    transfer: str = option(
        "copy the images, hardlink them, or reference: write only an index, and read them where they are",
        "copy",
        choices=TRANSFERS,
    )
    csv_formulas: str = option(CSV_FORMULAS, "quoted", choices=("quoted", "raw"))
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        if is_remote(self.output_dir) and self.transfer != "copy":
            return [f"transfer is {self.transfer!r}, but output_dir is in S3, where only copies go; give copy"]
        return []


@dataclass(frozen=True, kw_only=True)
class SplitOptions(Options):
    """Options of `split`."""

    verb = "split"

    image_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    train_dir: str = option(
        "directory to write the first part to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    val_dir: str = option("the same for the second part", place=HERE_OR_IN_S3)
    test_dir: str = option("the same for a third part; empty: two parts", "", place=HERE_OR_IN_S3)
    fraction: float = option("fraction of the images that goes to train_dir", 0.9, above=0, below=1)
    test_fraction: float = option("fraction of the images that goes to test_dir", 0.0, at_least=0, below=1)
    train_count: int = option("images for train_dir, instead of fraction; 0: by fraction", 0, at_least=0)
    val_count: int = option("images for val_dir; 0: all the others", 0, at_least=0)
    test_count: int = option("images for test_dir, instead of test_fraction; 0: by fraction", 0, at_least=0)
    random_seed: int = option("seed of the split", 1, at_least=0, below=MAX_SEED)
    group_regex: str = option("images stay together in whose names this finds the same, such as ^[^_]+", "")
    group_table: str = option("table (.csv, .parquet, .jsonl) that says which images stay together", "", place=HERE)
    group_column: str = option("its column of groups, such as patient", "")
    duplicates: str = option(
        "keep together pictures with the same pixels (exact), or that look alike too (near)",
        "exact",
        choices=DUPLICATES,
    )
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        problems = []
        if not self.test_dir and (self.test_fraction or self.test_count):
            problems.append("test_fraction and test_count need a test_dir")
        if self.test_dir and not (self.test_fraction or self.test_count):
            problems.append("test_dir is given, but neither test_fraction nor test_count")
        if bool(self.group_table) != bool(self.group_column):
            problems.append("group_table and group_column need each other")
        return problems


@dataclass(frozen=True, kw_only=True)
class TransformOptions(Options):
    """Options of `transform`."""

    verb = "transform"

    image_dir: str = option("images at any depth below this directory, local or s3://", place=HERE_OR_IN_S3)
    output_dir: str = option(
        "directory to write PNGs to, local or s3://; must not exist or be empty", place=HERE_OR_IN_S3
    )
    transformation: str = option(
        'JSON file: a list such as [{"name": "Resize", "size": 256}], or a run\'s training.json; '
        "empty: the designer's defaults",
        "",
        place=HERE,
    )
    mode: str = option(
        "training: all of it, drawn once; inference: without what is random",
        "training",
        choices=("training", "inference"),
    )
    random_seed: int = option("seed of what is random", 1, at_least=0, below=MAX_SEED)
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    """Options of `audit`."""

    verb = "audit"

    train_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    val_dir: str = option("the same for validation; empty: audit train_dir alone", "", place=HERE_OR_IN_S3)
    near_duplicates: bool = option("look for pictures that look alike too (needs imagehash)", True)
    fail_on: str = option(f"exit with 2 if there are any of these, with commas between: {', '.join(FINDINGS)}", "")
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    @property
    def fatal(self) -> tuple[str, ...]:
        """The kinds of findings to fail on."""
        return tuple(kind.strip() for kind in self.fail_on.split(",") if kind.strip())

    def combinations(self) -> list[str]:
        unknown = [kind for kind in self.fatal if kind not in FINDINGS]
        return [f"fail_on has {', '.join(unknown)}; choose of {', '.join(FINDINGS)}"] if unknown else []


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Options):
    """Options of `demo`."""

    verb = "demo"

    output_dir: str = option("directory for the images and the scored file", "digits-demo", place=HERE)
    random_seed: int = option("seed of the split and the training", 1, at_least=0, below=MAX_SEED)
    registered_model_name: str = option("name to register the model under", "digits")
    alias: str = option("alias to set on the registered version", "champion")

    def combinations(self) -> list[str]:
        return alias_problems(self.alias, self.registered_model_name) + model_name_problems(self.registered_model_name)
