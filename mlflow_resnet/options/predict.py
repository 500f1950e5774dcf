"""The parameters of a model's `predict`, which MLflow takes as `params`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.io.text.characters import join_names
from mlflow_resnet.options.base import Options, option, resolution_option, resolution_problems, tta_option


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Options):
    """Parameters of `predict`. A model's signature derives from these fields."""

    top_k: int = option("the k most probable classes instead of all; 0: all", 0, at_least=0)
    batch_size: int = option("images per forward pass; 0: as the model is configured", 0, at_least=0)
    min_confidence: float = option(
        "give no label to images whose most probable class has less than this probability", 0.0, at_least=0, at_most=1
    )
    tta: str = tta_option()
    resolution: int = resolution_option()
    explain: bool = option("add a picture of what speaks for the most probable class", False)

    def combinations(self) -> list[str]:
        return resolution_problems(self.resolution)


PARAMS: dict[str, Any] = {field.name: field.default for field in fields(PredictOptions)}


def predict_options(params: Mapping[str, Any] | None, tell_values: bool = True) -> PredictOptions:
    """`params` as a caller gives them, with None for a default.

    Args:
        tell_values: whether errors may repeat names and values that were given; over HTTP they may not.

    Raises:
        InvalidOptionsError: if one is unknown, or has a value that cannot work.
    """
    given = {name: value for name, value in (params or {}).items() if value is not None}
    if unknown := [name for name in given if name not in PARAMS]:
        raise explain_unknown_params(unknown if tell_values else ())
    problems = []
    for name, value in given.items():
        kind = type(PARAMS[name])
        try:
            given[name] = kind(value)
        except (TypeError, ValueError, OverflowError):
            problems.append(f"{name} cannot be made of a {type(value).__name__}; it must be of type {kind.__name__}")
    if problems:
        raise InvalidOptionsError(problems)
    try:
        return PredictOptions(**given)
    except InvalidOptionsError as error:
        if tell_values:
            raise
        # "top_k is -1; it must be at least 0" becomes "top_k: it must be at least 0"
        untold = [f"{problem.partition(' is ')[0]}: {problem.rpartition('; ')[2]}" for problem in error.problems]
        raise InvalidOptionsError(untold) from None


def explain_unknown_params(names: Iterable[str], known: Iterable[str] = PARAMS) -> InvalidOptionsError:
    """The error that there are no parameters of these names, or, without names, that some are unknown."""
    shortened = join_names(f"{name!r:.60}" for name in sorted(names))
    return InvalidOptionsError(
        [f"unknown params{' ' * bool(shortened)}{shortened}; predict takes {join_names(sorted(known))}"]
    )
