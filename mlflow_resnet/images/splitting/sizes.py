"""Sizes of the parts, and options that give workable sizes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

SHARES = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)  # of validation, and of test, that are tried for groups


@dataclass(frozen=True)
class Sizes:
    """Number of images of each part. Counts that are not 0 take the place of fractions; validation gets the rest.

    Attributes:
        in_training: whether `train` holds images out, whose option is `--val-fraction`.
    """

    fraction: float = 0.9
    test_fraction: float = 0.0
    train_count: int = 0
    val_count: int = 0
    test_count: int = 0
    in_training: bool = False

    def find_fitting_options(self, images: int, classes: int, parts: int) -> str:
        """The options with which each part can hold every class; empty if there are none."""
        if self.train_count or self.val_count or self.test_count:
            test = f" --test-count {classes}" if parts == 3 else ""
            train = images - (parts - 1) * classes
            return f"--train-count {train} --val-count {classes}{test}" if train >= classes else ""
        for scale in (100, 1000, 10_000):
            share = math.ceil(classes * scale / images) / scale
            if int((1 - (parts - 1) * share) * images + 1e-9) >= classes:
                return self.options(share, parts)
        return ""

    def find_working_options(self, parts: int, works: Callable[[Sizes], bool]) -> str:
        """The options of the first of a few sizes that work; empty if none does."""
        for share in SHARES:
            first = 1 - (parts - 1) * share
            if first > 0 and works(Sizes(first, share if parts == 3 else 0, in_training=self.in_training)):
                return self.options(share, parts)
        return ""

    def options(self, share: float, parts: int) -> str:
        """Returns options that give `share` of the images to validation, and as many to test."""
        if self.in_training:
            return f"--val-fraction {share:g}"
        return f"--fraction {1 - (parts - 1) * share:g}" + (f" --test-fraction {share:g}" if parts == 3 else "")
