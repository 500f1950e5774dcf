"""The options of `train`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.options.base import (
    AUTO,
    HERE,
    HERE_OR_IN_S3,
    MAX_SEED,
    PRECISIONS,
    Affects,
    Options,
    alias_problems,
    device_option,
    follow_links_option,
    model_name_problems,
    num_workers_option,
    on_bad_image_option,
    option,
    serving_for_option,
)
from mlflow_resnet.options.metric_names import EPOCH_METRICS

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
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")  # from the image to the head
STRATEGIES = ("auto", "finetune", "linear_probe", "probe_then_finetune", "scratch")

NOTHING, CONDITIONS = Affects.NOTHING, Affects.CONDITIONS
Auto = Literal["auto"]


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """Train a ResNet on folders of images; log the run and the model; register it if a name is given.

    What is "auto" is decided by the recipe.
    """

    examples = """
    mlflow-resnet train --train-dir flowers --architecture resnet50 --epochs 10 \\
        --registered-model-name flowers --alias champion
    """

    train_dir: str = option(
        "directory of class folders to train on, local or s3://",
        place=HERE_OR_IN_S3,
        section="Data",
        affects=Affects.IMAGES,
    )
    val_dir: str = option(
        "directory of class folders to validate on; empty: split off val_fraction",
        "",
        Affects.IMAGES,
        place=HERE_OR_IN_S3,
    )
    test_dir: str = option(
        "directory of class folders that the finished model is measured on; empty: none",
        "",
        Affects.IMAGES,
        place=HERE_OR_IN_S3,
    )
    val_fraction: float = option(
        "fraction of train_dir held out, if val_dir is empty", 0.2, CONDITIONS, above=0, below=1
    )
    on_bad_image: str = on_bad_image_option(affects=CONDITIONS)
    follow_links: bool = follow_links_option(affects=CONDITIONS)
    audit: bool = option(
        "look for leaks, conflicting labels and bad pictures first, and log what was found", True, NOTHING
    )

    architecture: str = option("network", "resnext101_32x8d", choices=ARCHITECTURES, section="Network")
    pretrained: bool = option("start from torchvision's default ImageNet weights", True)
    weights: str = option(
        "start from these instead: IMAGENET1K_V1, IMAGENET1K_V2, a .pth, .ckpt, .bin or .safetensors file (local or "
        "s3://), or a model's URI or folder",
        "",
    )
    zero_init_residual: bool = option("start each residual branch at zero (without pretrained weights)", False)

    recipe: str = option(
        "auto: our defaults for the strategy; designer: exactly the Azure designer's training",
        "auto",
        choices=("auto", "designer"),
        section="Recipe",
    )
    strategy: str = option(
        "finetune: all layers, earlier ones at a lower rate; linear_probe: the head only; probe_then_finetune; "
        "scratch; auto: probe_then_finetune from given weights, else scratch",
        "auto",
        choices=STRATEGIES,
    )
    freeze_until: str = option("keep the layers up to this one as they are", "none", choices=("none", *STAGES))
    epochs: int | Auto = option("passes over the training images", AUTO, at_least=1)
    probe_epochs: int | Auto = option("of these, epochs on the head alone (probe_then_finetune)", AUTO, at_least=0)
    max_minutes: float = option(
        "end the training within this time, its schedule adapted; 0: no limit", 0.0, CONDITIONS, at_least=0
    )
    batch_size: int | Auto = option("images per update of the weights, over all processes", AUTO, at_least=2)
    accumulation_steps: int = option("parts that a batch is computed in, to save memory", 1, CONDITIONS, at_least=1)
    random_seed: int = option("seed of split, head, order and augmentation", 1, CONDITIONS, at_least=0, below=MAX_SEED)
    split_seed: int | Auto = option(
        "seed of the split alone; auto: random_seed", AUTO, CONDITIONS, at_least=0, below=MAX_SEED
    )
    seeds: int = option(
        "trainings with as many seeds, from random_seed on, on the same split, each a child run of one run, which has "
        "their means; the best by best_metric is registered",
        1,
        NOTHING,
        at_least=1,
    )

    optimizer: str = option("optimizer", AUTO, choices=("auto", "sgd", "adamw"), section="Optimizer")
    learning_rate: float | Auto = option("highest learning rate", AUTO, above=0)
    layer_decay: float | Auto = option(
        "factor of the learning rate from one stage to the one before it", AUTO, above=0, at_most=1
    )
    schedule: str = option(
        "fall of the learning rate; polynomial: power 2; step: to a tenth after each third of the training",
        AUTO,
        choices=("auto", "cosine", "polynomial", "step", "constant"),
    )
    warmup_epochs: float | Auto = option("epochs over which the learning rate rises linearly", AUTO, at_least=0)
    weight_decay: float | Auto = option("weight decay", AUTO, at_least=0)
    gradient_clip: float | Auto = option("largest norm of the gradient; 0: any", AUTO, at_least=0)
    label_smoothing: float | Auto = option("label smoothing", AUTO, at_least=0, below=1)
    ema_decay: float | Auto = option("decay per step of an average of the weights; 0: off", AUTO, at_least=0, below=1)
    class_balance: str = option(
        "rare classes count more: loss weights of 1/sqrt(n) (sqrt) or 1/n (balanced), or drawn more often (sampler)",
        "none",
        choices=("none", "sqrt", "balanced", "sampler"),
    )

    best_metric: str = option(
        "metric that chooses the best epoch",
        "val_top1_accuracy",
        CONDITIONS,
        choices=EPOCH_METRICS,
        section="Best epoch",
    )
    patience: int | Auto = option(
        "stop after this many epochs without a new best; 0: never", AUTO, CONDITIONS, at_least=0
    )
    patience_delay: int = option("epochs before patience begins to count", 0, CONDITIONS, at_least=0)

    resize_size: int = option(
        "pixels of the shorter edge before the crop", 256, at_least=1, section="Preprocessing, for training and scoring"
    )
    crop_size: int = option("pixels of the square the network sees", 224, at_least=1)
    train_crop_size: int = option("the same in training; 0: crop_size", 0, at_least=0)
    padding: int = option("pixels of black around the crop", 0, at_least=0)
    grayscale: bool = option("take the color away", False)

    random_resized_crop: bool | Auto = option(
        "crop a random region and resize it", AUTO, section="Augmentation, for training only"
    )
    min_crop_area: float | Auto = option("smallest area of that region, as a fraction", AUTO, above=0, at_most=1)
    random_crop: bool = option("crop a random square of the resized image", False)
    random_horizontal_flip: bool | Auto = option(
        "mirror every other image; auto: unless the classes are named after digits or letters", AUTO
    )
    random_vertical_flip: bool = option("turn every other image upside down", False)
    rotation_degrees: float = option("rotate by up to this many degrees", 0.0, at_least=0, at_most=180)
    affine_degrees: float = option("the same, and move by up to a tenth", 0.0, at_least=0, at_most=180)
    color_jitter: float = option("change brightness, contrast and saturation by up to this factor", 0.0, at_least=0)
    random_grayscale: float = option("probability to take the color away", 0.0, at_least=0, at_most=1)
    random_perspective: float = option("probability of another perspective", 0.0, at_least=0, at_most=1)
    random_erasing: float | Auto = option("probability to erase a rectangle", AUTO, at_least=0, at_most=1)
    auto_augment: str = option("augmentation policy", AUTO, choices=("auto", "none", "randaugment", "trivialaugment"))
    mixup: float | Auto = option("alpha of mixup; 0: off", AUTO, at_least=0)
    cutmix: float | Auto = option("alpha of cutmix; 0: off", AUTO, at_least=0)
    mixing_until: float = option("fraction of the training after which both stop", 0.9, at_least=0, at_most=1)

    device: str = device_option(section="Speed", affects=Affects.MACHINE)
    precision: str = option("auto: bf16 where it is faster, else fp32", "auto", CONDITIONS, choices=PRECISIONS)
    compile: bool = option("torch.compile the network: a minute first, then faster on GPUs", False, Affects.MACHINE)
    cache: str = option(
        "keep decoded images: in memory if they fit (auto), in memory (ram), in a file that runs share (disk), none",
        "auto",
        NOTHING,
        choices=("auto", "ram", "disk", "none"),
    )
    cache_dir: str = option("folder of that file; empty: the user's cache folder", "", NOTHING, place=HERE)
    feature_views: int = option(
        "augmented views of each image that a linear probe keeps the features of; 0: 1 without augmentation, else 4",
        0,
        at_least=0,
    )
    num_workers: int = num_workers_option(affects=NOTHING)
    processes: int = option(
        "processes that train together on this machine, such as one per GPU", 1, CONDITIONS, at_least=1
    )
    sync_batch_norm: bool = option(
        "batch norms see the batch of all processes, which need GPUs for it", False, CONDITIONS
    )
    print_frequency: int = option("iterations between progress lines", 10, NOTHING, at_least=1)

    checkpoint_dir: str = option(
        "folder for the checkpoints of this training; empty: one below checkpoints/",
        "",
        NOTHING,
        place=HERE,
        section="Going on after an interruption",
    )
    checkpoint_minutes: float = option(
        "write a checkpoint this often, and after epochs where that takes little time; 0: none",
        5.0,
        NOTHING,
        at_least=0,
    )
    checkpoint_mirror: str = option(
        "where checkpoints are copied to, so that another machine can go on: artifacts (of the run), s3://bucket/prefix",
        "",
        NOTHING,
    )
    resume: str = option(
        "auto: go on from a checkpoint of the same training; force: also if data or options changed; never: begin anew",
        "auto",
        NOTHING,
        choices=("auto", "force", "never"),
    )
    offline: bool = option(
        "keep what is logged in the checkpoint folder; deliver it with mlflow-resnet sync FOLDER", False, NOTHING
    )
    on_divergence: str = option(
        "stop: end the training; rewind: up to twice, go back to the last checkpoint with a tenth of the learning rate",
        "stop",
        Affects.OUTCOME,
        choices=("stop", "rewind"),
    )

    epoch_models: bool = option(
        "log the weights of every epoch as a model too, epoch-N; offline they all wait on the disk",
        False,
        NOTHING,
        section="Models",
    )
    serving_for: str = serving_for_option(affects=Affects.OUTCOME)
    registered_model_name: str = option(
        "register the model under this name; empty: do not register", "", Affects.OUTCOME
    )
    alias: str = option("set this alias on the registered version; empty: none", "", Affects.OUTCOME)

    @property
    def seed_of_split(self) -> int:
        return self.random_seed if self.split_seed == AUTO else self.split_seed

    def combinations(self) -> Iterator[str]:
        yield from alias_problems(self.alias, self.registered_model_name)
        yield from model_name_problems(self.registered_model_name)
        yield from self.checkpoint_problems()
        yield from self.seeds_problems()
        if self.crop_size > self.resize_size:
            yield f"crop_size {self.crop_size} is above resize_size {self.resize_size}; raise resize_size"
        if self.random_crop and self.random_resized_crop is True:
            yield "random_crop and random_resized_crop are both on; choose one"
        if self.random_crop and self.train_crop_size > self.resize_size:
            yield f"train_crop_size {self.train_crop_size} is above resize_size {self.resize_size}"
        yield from self.batch_problems()
        yield from self.recipe_problems()

    def checkpoint_problems(self) -> Iterator[str]:
        mirror, has_checkpoints = self.checkpoint_mirror, self.checkpoint_minutes
        if self.on_divergence == "rewind" and not has_checkpoints:
            yield "on_divergence is 'rewind', but checkpoint_minutes is 0; there would be no checkpoints"
        if mirror not in ("", "artifacts") and not is_remote(mirror):
            yield f"checkpoint_mirror is {mirror!r}; give artifacts or s3://bucket/prefix"
        if is_remote(self.checkpoint_dir):
            yield "for copies of checkpoints in S3, give checkpoint_mirror as s3://bucket/prefix"
        if mirror and not has_checkpoints:
            yield f"checkpoint_mirror is {mirror!r}, but checkpoint_minutes is 0; there would be no checkpoints"
        if mirror == "artifacts" and self.offline:
            yield "checkpoint_mirror is 'artifacts', which cannot be reached offline; give s3://bucket/prefix"
        if self.offline and not has_checkpoints:
            yield "offline is on, but checkpoint_minutes is 0; there would be no folder to log to"

    def seeds_problems(self) -> Iterator[str]:
        if self.seeds < 2:
            return
        if self.random_seed + self.seeds > MAX_SEED:
            yield f"random_seed {self.random_seed} leaves no room for {self.seeds} seeds; give a smaller one"
        if not self.checkpoint_minutes:
            yield f"seeds is {self.seeds}, but checkpoint_minutes is 0; finished trainings are known by their folders"
        if self.offline:
            yield f"seeds is {self.seeds}, but offline is on; the run that has their means needs the tracking server"

    def batch_problems(self) -> Iterator[str]:
        batch_size, processes, steps = self.batch_size, self.processes, self.accumulation_steps
        if batch_size == AUTO or batch_size < 2 or processes < 1:
            return
        if batch_size % processes:
            yield f"batch_size {batch_size} cannot be divided among {processes} processes"
        if batch_size < 2 * processes * steps:
            yield (
                f"batch_size {batch_size} leaves less than 2 images for each of {processes} processes "
                f"times {steps} accumulation_steps"
            )

    def recipe_problems(self) -> Iterator[str]:
        if self.strategy == "linear_probe":
            if not (self.pretrained or self.weights):
                yield "strategy is 'linear_probe' without pretrained weights, so the features would be random"
            if self.freeze_until not in ("none", STAGES[-1]):
                yield "strategy 'linear_probe' freezes all layers; leave freeze_until out"
            if self.mixup not in (0, AUTO) or self.cutmix not in (0, AUTO):
                yield "strategy 'linear_probe' trains on features, which mixup and cutmix do not apply to"
        if self.strategy == "scratch" and self.weights:
            yield f"strategy is 'scratch' but weights is {self.weights!r}; leave one out"
        if self.recipe == "designer" and self.strategy not in (AUTO, "scratch", "finetune"):
            yield f"recipe 'designer' trains all layers; it has no strategy {self.strategy!r}"


def train_only_problems(options: TrainOptions) -> Iterator[str]:
    """Returns problems of options that only `train` understands."""
    if options.seeds > 1:
        yield f"seeds is {options.seeds}, but {options.verb} trains with one; leave it out"
    if options.processes > 1:
        yield f"processes is {options.processes}, but {options.verb} trains in one process; leave it out"
    if options.offline:
        yield f"offline is on, but {options.verb} needs the tracking server; leave it out"
