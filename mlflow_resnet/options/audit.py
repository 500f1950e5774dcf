"""The options of `audit`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import (
    HERE_OR_IN_S3,
    IMAGE_DIR_LABELED,
    Options,
    follow_links_option,
    num_workers_option,
    option,
)

FINDINGS = {  # kind -> what the pictures are, in the order of the report
    "unreadable": "cannot be read",
    "leak": "are in training and in validation",
    "conflict": "are under several labels",
    "near_leak": "look like one in the other part",
    "duplicate": "are there several times",
    "near_duplicate": "look like another one",
    "tiny_class": "are in a class of fewer than 10",
    "imbalance": "are in a class with less than a tenth of the images of the largest",
    "blank": "show nothing",
    "dark": "are nearly black",
    "bright": "are nearly white",
    "blurry": "have no sharp edge",
    "odd_aspect": "are more than three times as long as wide",
}


@dataclass(frozen=True, kw_only=True)
class AuditOptions(Options):
    """Look for leaks, duplicates, conflicting labels, bad classes and bad pictures; log a report with thumbnails.

    Exits with 2 if it finds what --fail-on names. Repeated, it reads only what has changed.
    """

    examples = """
    mlflow-resnet audit --train-dir flowers/train --val-dir flowers/val \\
        --fail-on leak,conflict,unreadable
    """

    train_dir: str = option(IMAGE_DIR_LABELED, place=HERE_OR_IN_S3)
    val_dir: str = option("the same for validation; empty: audit train_dir alone", "", place=HERE_OR_IN_S3)
    near_duplicates: bool = option("look for pictures that look alike too (needs imagehash)", True)
    fail_on: str = option(f"exit with 2 if there are any of these, with commas between: {', '.join(FINDINGS)}", "")
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    @property
    def fatal(self) -> tuple[str, ...]:
        """The kinds of findings to fail on."""
        return tuple(kind.strip() for kind in self.fail_on.split(",") if kind.strip())

    def combinations(self) -> list[str]:
        unknown = [kind for kind in self.fatal if kind not in FINDINGS]
        return [f"fail_on has {', '.join(unknown)}; choose of {', '.join(FINDINGS)}"] if unknown else []
