"""Fields that are fine by themselves and together check nothing, or can never be met: better refused than believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mlflow_resnet.options.metric_names import FRACTIONS, LOWER_IS_BETTER
from mlflow_resnet.registry.gate.rule import Bounds, NotWorse, Rule
from mlflow_resnet.registry.patterns import fold_case


def find_mistakes(rules: Mapping[int, Rule]) -> list[str]:
    """Describes what is wrong with rules whose fields can be read, by their numbers in the file."""
    found = [f"rule {number}: {each}" for number, rule in rules.items() for each in find_mistakes_in_rule(rule)]
    numbers, names = list(rules), ("models", "alias")
    alike = [
        rule.model_copy(update={name: fold_case(getattr(rule, name)) for name in names}) for rule in rules.values()
    ]
    for place, rule in enumerate(alike):
        if (first := alike.index(rule)) != place:
            found.append(f"rule {numbers[place]} says the same as rule {numbers[first]}; remove one of them")
    return found


def find_mistakes_in_rule(rule: Rule) -> Iterator[str]:
    for metric, bounds in rule.require.metrics.items():
        yield from find_bounds_mistakes(f"require: metrics: {metric}", metric, bounds)
    if rule.not_worse:
        yield from find_limit_mistakes(rule.not_worse)
    yield from find_logged_mistakes(rule)


def find_bounds_mistakes(field: str, metric: str, bounds: Bounds) -> Iterator[str]:
    """Yields why bounds cannot be met, or refuse nothing."""
    highest = 1.0 if metric in FRACTIONS else float("inf")
    for name, bound in (("min", bounds.min), ("max", bounds.max)):
        if bound is not None and not 0 <= bound <= highest:
            yield f"{field}: {name} is {bound:g}; expected a number from 0{f' to {highest:g}' * (highest == 1)}"
    if bounds.min is not None and bounds.max is not None and bounds.max < bounds.min:
        yield f"{field}: max is {bounds.max:g}, less than min, {bounds.min:g}"


def find_limit_mistakes(limit: NotWorse) -> Iterator[str]:
    """Yields why a comparison with the champion refuses nothing, or the wrong thing."""
    name, metric = limit.kind, limit.metric
    if limit.is_lower_better != (metric in LOWER_IS_BETTER):
        said = str(limit.is_lower_better).lower()
        yield f"not_worse: lower_is_better is {said}, which is wrong of {metric}; remove it"
    if name != "significant" and metric in FRACTIONS and limit.limit >= 1:
        yield f"not_worse: {name} is {limit.limit:g}, which allows everything; expected less than 1"
    if name == "significant" and limit.limit == 0:
        yield "not_worse: significant is 0, which allows everything; expected more, such as 0.05"
    if name == "significant" and metric != "top1_accuracy":
        yield f"not_worse: metric is {metric!r}; expected top1_accuracy, of which significant compares the images"


def find_logged_mistakes(rule: Rule) -> Iterator[str]:
    if rule.logged and not rule.require.metrics and not rule.not_worse:
        yield "logged is true, but no metric is asked for; add require: metrics: or not_worse:"
    if rule.logged and not rule.signed and rule.not_worse and rule.not_worse.kind == "significant":
        yield (
            "logged is true, but the images that only one model has right are logged nowhere; "
            "add signed: true, or compare with by: or relative: instead of significant:"
        )
