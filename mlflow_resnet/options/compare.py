"""The options of `compare`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import Options, option


@dataclass(frozen=True, kw_only=True)
class CompareOptions(Options):
    """Compare runs of train or evaluate on the images that all of them predicted.

    RUNS are run ids. The first is compared with each other one by McNemar's test: could the difference be luck?
    """

    examples = "mlflow-resnet compare 3f0c2b9c7d1e4a5f8b6a 9a1d4e7f2c3b4d5e6f70"

    runs: tuple[str, ...] = option("ids of two or more runs", is_argument=True)
    on: str = option(
        "which images; auto: the first of these that all runs have",
        "auto",
        choices=("auto", "test", "evaluation", "validation"),
    )
