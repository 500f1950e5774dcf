"""Rules that are well written and yet check nothing, or can never be met: better refused than believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from mlflow.exceptions import MlflowException
from mlflow.utils.validation import (
    _validate_model_alias_name,
    _validate_model_alias_name_reserved,
    _validate_model_name,
)

from mlflow_resnet.errors import listed
from mlflow_resnet.options.metric_names import EVALUATION_METRICS, FRACTIONS, LOWER_IS_BETTER
from mlflow_resnet.registry.gate.decision import BY
from mlflow_resnet.registry.gate.guards import is_gates
from mlflow_resnet.registry.gate.rule import Bounds, NotWorse, Rule
from mlflow_resnet.registry.patterns import folded

MEANT = "?[]{}|\\^$!%,;"  # mean something elsewhere: in a shell, a regular expression, SQL, a list
OF_MLFLOW_RESNET = "mlflow_resnet."  # begins the names of tags that the gate or the commands write


def find_mistakes(rules: Sequence[Rule]) -> list[str]:
    """What is wrong with rules whose fields can be read, each with the rule's number, from 1."""
    found = [f"rule {number}: {each}" for number, rule in enumerate(rules, 1) for each in find_mistakes_in_rule(rule)]
    facts = [vars(rule) | {"models": folded(rule.models), "alias": folded(rule.alias)} for rule in rules]
    for number, fact in enumerate(facts, 1):
        if (first := facts.index(fact) + 1) != number and fact["models"]:
            found.append(f"rule {number} says the same as rule {first}; remove one of them")
    return found


def find_mistakes_in_rule(rule: Rule) -> Iterator[str]:
    yield from of_name("models", rule.models, _validate_model_name)
    yield from of_name("alias", rule.alias, _validate_model_alias_name, _validate_model_alias_name_reserved)
    for metric, bounds in rule.metrics.items():
        yield from of_metric(f"require: metrics: {metric}", metric)
        yield from of_bounds(f"require: metrics: {metric}", metric, bounds)
    if rule.not_worse and rule.not_worse.metric:
        yield from of_metric("not_worse: metric", rule.not_worse.metric)
        yield from of_limit(rule.not_worse)
    if rule.max_age_days == 0:
        yield "require: max_age_days is 0, which nothing can meet; expected more"
    yield from of_logged(rule)
    yield from of_tags(rule)


def of_name(field: str, pattern: str, *validations: Callable[[str], None]) -> Iterator[str]:
    """What keeps a pattern from meaning any name that MLflow takes."""
    if meant := [letter for letter in MEANT if letter in pattern]:
        yield (
            f"{field} is {pattern!r}, and {' '.join(meant)} would stand for no more than itself; "
            "write * for letters that may differ, and a rule for each name"
        )
    elif pattern:
        try:
            for validate in validations:
                validate(pattern.replace("*", "a"))
        except MlflowException as error:
            yield f"{field} is {pattern!r}, which fits nothing: {error.message}"


def of_metric(field: str, metric: str) -> Iterator[str]:
    if metric not in EVALUATION_METRICS:
        yield f"{field} is not what is measured; expected one of {listed(sorted(EVALUATION_METRICS))}"


def of_bounds(field: str, metric: str, bounds: Bounds) -> Iterator[str]:
    """What keeps bounds from being met, or from refusing anything."""
    highest = 1.0 if metric in FRACTIONS else float("inf")
    for name, bound in (("min", bounds.min), ("max", bounds.max)):
        if bound is not None and metric in EVALUATION_METRICS and not 0 <= bound <= highest:
            yield f"{field}: {name} is {bound:g}; expected a number from 0{f' to {highest:g}' * (highest == 1)}"
    if bounds.min is not None and bounds.max is not None and bounds.max < bounds.min:
        yield f"{field}: max is {bounds.max:g}, less than min, {bounds.min:g}"


def of_limit(limit: NotWorse) -> Iterator[str]:
    """What keeps a comparison with the champion from refusing anything, or the right thing."""
    name, metric = limit.kind, limit.metric
    if metric in EVALUATION_METRICS and limit.lower_is_better != (metric in LOWER_IS_BETTER):
        said = str(limit.lower_is_better).lower()
        yield f"not_worse: lower_is_better is {said}, which is wrong of {metric}; remove it"
    if name != "significant" and metric in FRACTIONS and limit.limit >= 1:
        yield f"not_worse: {name} is {limit.limit:g}, which allows everything; expected less than 1"
    if name == "significant" and limit.limit == 0:
        yield "not_worse: significant is 0, which allows everything; expected more, such as 0.05"
    if name == "significant" and metric != "top1_accuracy":
        yield f"not_worse: metric is {metric!r}; expected top1_accuracy, of which significant compares the images"


def of_logged(rule: Rule) -> Iterator[str]:
    if rule.logged and not rule.metrics and not rule.not_worse:
        yield "logged is true, but no metric is asked for; add require: metrics: or not_worse:"
    if rule.logged and not rule.signed and rule.not_worse and rule.not_worse.kind == "significant":
        yield (
            "logged is true, but the images that only one model has right are logged nowhere; "
            "add signed: true, or compare with by: or relative: instead of significant:"
        )


def of_tags(rule: Rule) -> Iterator[str]:
    """Tags that no client may write, or that say nothing about a version."""
    if rule.approval and folded(rule.approval.tag).startswith(OF_MLFLOW_RESNET):
        yield f"approval: tag is {rule.approval.tag!r}, which mlflow_resnet itself writes; expected a name of your own"
    elif rule.approval and folded(rule.approval.tag).endswith(BY):
        yield f"approval: tag is {rule.approval.tag!r}; .by ends the names of the tags that say who approved"
    for tag in rule.tags:
        if is_gates(tag):
            yield f"require: tags: {tag} is a tag that only the gate writes; expected a name of your own"
