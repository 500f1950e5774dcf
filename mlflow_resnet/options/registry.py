"""The options of the verbs that decide which version is the champion."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    BATCH_SIZE,
    DEVICE,
    FOLLOW_LINKS,
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    METRICS,
    NUM_WORKERS,
    ON_BAD_IMAGE,
    Options,
    alias_problems,
    model_name_problems,
    option,
)

ALIAS = "alias to move"


@dataclass(frozen=True, kw_only=True)
class PromoteOptions(Options):
    """Options of `promote`."""

    verb = "promote"

    model_uri: str = option("candidate version, such as models:/digits/2")
    image_dir: str = option(IMAGE_DIR_LABELED + "; candidate and champion are both measured on it", place=HERE_OR_IN_S3)
    alias: str = option(ALIAS, "champion")
    metric: str = option("metric to compare", "top1_accuracy", choices=METRICS)
    max_drop: float = option("how much worse than the champion it may be, in the metric's unit", 0.0, at_least=0)
    measure_only: bool = option("write the evidence, and leave moving the alias to somebody else", False)
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    on_bad_image: str = option(ON_BAD_IMAGE, "error", choices=("error", "skip"))
    device: str = option(DEVICE, "auto")
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)

    def combinations(self) -> list[str]:
        return required_alias_problems(self.alias)


@dataclass(frozen=True, kw_only=True)
class RollbackOptions(Options):
    """Options of `rollback`."""

    verb = "rollback"

    name: str = option("registered model, such as digits")
    alias: str = option(ALIAS, "champion")

    def combinations(self) -> list[str]:
        return model_name_problems(self.name) + required_alias_problems(self.alias)


@dataclass(frozen=True, kw_only=True)
class ShadowOptions(Options):
    """Options of `shadow`."""

    verb = "shadow"

    champion: str = option("the model that answers now, such as models:/digits@champion")
    challenger: str = option("the model to compare with it, such as models:/digits@challenger")
    image_dir: str = option(
        "images at any depth below this directory, local or s3://; they need no labels", place=HERE_OR_IN_S3
    )
    batch_size: int = option(BATCH_SIZE, 32, at_least=1)
    device: str = option(DEVICE, "auto")
    follow_links: bool = option(FOLLOW_LINKS, False)
    num_workers: int = option(NUM_WORKERS, 0, at_least=0)


def required_alias_problems(alias: str) -> list[str]:
    return alias_problems(alias, "the version's own") or ([] if alias else ["alias is empty"])
