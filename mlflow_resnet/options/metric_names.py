"""The metrics of an evaluation and of an epoch: what they are called and which direction is better."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Metric:
    """A number by which classifiers are compared; a fraction lies between 0 and 1."""

    name: str
    lower_is_better: bool = False
    is_fraction: bool = True
    is_headline: bool = False  # shown where there is room for few


_EVALUATION = (
    Metric("top1_accuracy", is_headline=True),
    Metric("top5_accuracy", is_headline=True),
    Metric("balanced_accuracy", is_headline=True),
    Metric("micro_precision"),
    Metric("micro_recall"),
    Metric("micro_f1"),
    Metric("macro_precision"),
    Metric("macro_recall"),
    Metric("macro_f1", is_headline=True),
    Metric("weighted_precision"),
    Metric("weighted_recall"),
    Metric("weighted_f1"),
    Metric("log_loss", lower_is_better=True, is_fraction=False, is_headline=True),
)
_EPOCH = (
    *(replace(each, name="val_loss" if each.name == "log_loss" else f"val_{each.name}") for each in _EVALUATION),
    Metric("train_loss", lower_is_better=True, is_fraction=False),
    Metric("train_top1_accuracy"),
)

EVALUATION_METRICS = tuple(each.name for each in _EVALUATION)
EPOCH_METRICS = tuple(each.name for each in _EPOCH)
HEADLINE = tuple(each.name for each in _EVALUATION if each.is_headline)
FRACTIONS = frozenset(each.name for each in _EVALUATION if each.is_fraction)
LOWER_IS_BETTER = frozenset(each.name for each in (*_EVALUATION, *_EPOCH) if each.lower_is_better)
