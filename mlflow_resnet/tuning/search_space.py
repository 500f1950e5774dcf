"""Search spaces of sweeps."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from itertools import islice, product
from typing import Any, get_args, get_type_hints

import yaml

from mlflow_resnet.errors import InvalidOptionsError
from mlflow_resnet.options.base import AUTO, Affects, names_affecting
from mlflow_resnet.options.train import TrainOptions
from mlflow_resnet.training.recipe import Recipe

SWEPT = names_affecting(TrainOptions, Affects.WEIGHTS)
OPTION_TYPES = get_type_hints(TrainOptions)
TRAIN_DEFAULTS = {field.name: field.default for field in fields(TrainOptions)}
RECIPE_FIELDS = {field.name for field in fields(Recipe)}
NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
MAX_CORNERS = 4096


@dataclass(frozen=True)
class Choice:
    """Any of some values."""

    values: tuple[Any, ...]

    @property
    def extremes(self) -> tuple[Any, ...]:
        return self.values

    def suggest(self, trial: Any, name: str) -> Any:
        return trial.suggest_categorical(name, self.values)

    def __contains__(self, value: Any) -> bool:
        return value in self.values


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`: whole ones if both are, evenly over the logarithm, or `step` apart."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def extremes(self) -> tuple[Any, ...]:
        return self.low, self.high

    def suggest(self, trial: Any, name: str) -> Any:
        if isinstance(self.low, int):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1, log=self.log)
        return trial.suggest_float(name, self.low, self.high, step=self.step, log=self.log)

    def __contains__(self, value: Any) -> bool:
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-8


Space = Mapping[str, Choice | Range]


def default_space(recipe: Recipe, options: TrainOptions, images: int) -> Space:
    """Returns ranges around a strategy's recipe, without the options that were given.

    Rate and decay: a factor of 10 to either side. Batch size: half and twice the recipe's, within the `images`.
    """
    rate, decay, batch = recipe.learning_rate, recipe.weight_decay, recipe.batch_size
    space: dict[str, Choice | Range] = {
        "learning_rate": Range(rate / 10, rate * 10, log=True),
        "weight_decay": Range(decay / 10, decay * 10, log=True) if decay else Choice((0.0, 1e-4)),
        "label_smoothing": Range(0.0, 0.2),
        "batch_size": Choice(tuple(size for size in (batch // 2, batch, 2 * batch) if 2 <= size <= images)),
    }
    if recipe.strategy != "linear_probe":
        space["mixup"] = Choice((0.0, 0.2))
    if recipe.strategy in ("finetune", "probe_then_finetune"):
        space["layer_decay"] = Range(0.5, 1.0)
    if recipe.random_resized_crop:
        space["min_crop_area"] = Range(0.08, 1.0)
    return {name: values for name, values in space.items() if getattr(options, name) == AUTO}


def read_space(path: str, options: TrainOptions) -> Space:
    """The search space in a YAML file.

    Raises:
        InvalidOptionsError: that names all that is wrong in it.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise InvalidOptionsError([f"search_space {path} cannot be read as YAML ({reason})"]) from None
    if not isinstance(content, dict) or not content:
        problem = f"search_space {path} must map names of options to values: `optimizer: [sgd, adamw]`"
        raise InvalidOptionsError([problem])
    problems, space = [], {}
    for name, entry in content.items():
        try:
            space[str(name)] = parse_values(str(name), entry, options)
        except ValueError as error:
            problems.append(f"search_space: {error}")
    if problems:
        raise InvalidOptionsError(problems)
    return space


def parse_values(name: str, entry: Any, options: TrainOptions) -> Choice | Range:
    """The values of one option. Raises ValueError for one that cannot be swept, or not like that."""
    if name not in TRAIN_DEFAULTS:
        close = difflib.get_close_matches(name, TRAIN_DEFAULTS, 1)
        raise ValueError(f"{name} is no option of train" + (f"; did you mean {close[0]}?" if close else ""))
    if name not in SWEPT:
        raise ValueError(f"{name} must be the same in every trial; give it as an option of the sweep")
    if (given := getattr(options, name)) != TRAIN_DEFAULTS[name]:
        raise ValueError(f"{name} is also given as an option, {given!r}; leave one of them out")
    hint = OPTION_TYPES[name]
    kind, takes_auto = (hint, False) if isinstance(hint, type) else (get_args(hint)[0], True)
    if isinstance(entry, list) and entry:
        return Choice(tuple(AUTO if takes_auto and v == AUTO else convert_value(name, v, kind) for v in entry))
    is_number = kind in (int, float)
    if is_number and isinstance(entry, dict) and {"low", "high"} <= entry.keys() <= {"low", "high", "log", "step"}:
        return parse_range(name, entry, kind)
    ranges = ", or a range such as {low: 1, high: 8}" if is_number else ""
    raise ValueError(f"{name} is {entry!r}; give a list of values{ranges}")


def parse_range(name: str, entry: dict[str, Any], kind: type) -> Range:
    low, high = (convert_value(name, entry[key], kind) for key in ("low", "high"))
    step = convert_value(name, entry["step"], kind) if "step" in entry else None
    log = convert_value(name, entry.get("log", False), bool)
    if not low < high:
        raise ValueError(f"{name} has low {low} and high {high}; low must be below high")
    if log and low <= 0:
        raise ValueError(f"{name} has low {low} and log: true; low must be above 0 then")
    if step is not None and (log or not 0 < step <= high - low):
        raise ValueError(f"{name} has step {step}; it must be above 0, at most high - low, and without log: true")
    return Range(low, high, log, step)


def convert_value(name: str, value: Any, kind: type) -> Any:
    """`value` as the option's type. YAML takes 1e-4, without a dot, for text."""
    with suppress(TypeError, ValueError, OverflowError):
        if kind is float and not isinstance(value, bool):
            return float(value)
        if kind is int and not isinstance(value, bool) and int(value) == float(value):
            return int(value)
    if kind in (bool, str) and isinstance(value, kind):
        return value
    raise ValueError(f"{name} has the value {value!r}; it must be {NOUNS[kind]}")


def check_corners(space: Space, check: Callable[[dict[str, Any]], object]) -> None:
    """Calls `check` with every combination of extreme values, and raises one error for all that cannot work.

    Beyond 4096 combinations the others are left to the trials.
    """
    if not space:
        raise InvalidOptionsError(["there is nothing to sweep: every option that would vary is given"])
    problems: dict[str, None] = {}
    for corner in islice(product(*(values.extremes for values in space.values())), MAX_CORNERS):
        try:
            check(dict(zip(space, corner, strict=True)))
        except InvalidOptionsError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise InvalidOptionsError([f"search_space: {problem}" for problem in problems])


def own_values(space: Space, recipe: Recipe, options: TrainOptions) -> dict[str, Any]:
    """The values that `train` would take for the swept options, empty if one of them is outside the space."""
    own = {name: getattr(recipe, name) if name in RECIPE_FIELDS else getattr(options, name) for name in space}
    return own if all(own[name] in values for name, values in space.items()) else {}
