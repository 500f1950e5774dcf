"""One rule: requirements for certain models' versions before an alias may point to them.

The fields are those of the file with the rules; docs/gate.md tells what each of them means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from mlflow.exceptions import MlflowException
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, field_validator, model_validator

from mlflow_resnet.errors import join_names
from mlflow_resnet.mlflow_seams import validate_alias, validate_model_name
from mlflow_resnet.options.metric_names import EVALUATION_METRICS, LOWER_IS_BETTER
from mlflow_resnet.registry.aliases import GATE_TAG
from mlflow_resnet.registry.names import fold_case, matches_pattern
from mlflow_resnet.registry.validation import Number, Record, build_mistake, expect

LIMITS = ("by", "relative", "significant")
BY = ".by"  # ends the name of the tag in which the gate writes who set the approval
MEANT = "?[]{}|\\^$!%,;"  # mean something elsewhere: in a shell, a regular expression, SQL, a list
OF_MLFLOW_RESNET = "mlflow_resnet.", "mlflow_resnet_"  # begin the names of tags that the gate or the commands write


def wrap_text(value: object) -> object:
    """Returns a list of one text for a text, anything else as it is."""
    return [value] if isinstance(value, str) else value


def require_pattern(validate: Callable[[str], None]) -> AfterValidator:
    """Refuses a pattern that cannot mean any name that MLflow takes."""

    def require(text: str) -> str:
        if meant := [letter for letter in MEANT if letter in text]:
            raise build_mistake(
                f"is {text!r}, and {' '.join(meant)} would stand for no more than itself; "
                "write * for letters that may differ, and a rule for each name"
            )
        try:
            validate(text.replace("*", "a"))
        except MlflowException as error:
            raise build_mistake(f"is {text!r}, which fits nothing: {error.message}") from None
        return text

    return AfterValidator(require)


def require_measured(metric: str) -> str:
    if metric not in EVALUATION_METRICS:
        raise build_mistake(f"is not what is measured; expected one of {join_names(sorted(EVALUATION_METRICS))}")
    return metric


def require_writable(tag: str) -> str:
    """Refuses a tag that no client may write on a version."""
    if fold_case(tag).startswith(GATE_TAG):
        raise build_mistake("is a tag that only the gate writes; expected a name of your own")
    return tag


def require_own(tag: str) -> str:
    """Refuses a tag for approvals that something else writes, or that says who approved."""
    if fold_case(tag).startswith(OF_MLFLOW_RESNET):
        raise build_mistake(f"is {tag!r}, which mlflow_resnet itself writes; expected a name of your own")
    if fold_case(tag).endswith(BY):
        raise build_mistake(f"is {tag!r}; {BY} ends the names of the tags that say who approved")
    return tag


Text = Annotated[str, StringConstraints(pattern=r"\S")]
Flag = Annotated[bool, expect("true or false")]
Bound = Annotated[Number, expect("a number")]
Fraction = Annotated[Number, Field(ge=0, le=1), expect("a number from 0 to 1")]
Days = Annotated[Number, Field(gt=0, le=36500), expect("a number above 0, at most 36500")]
Digests = Annotated[
    list[Text], Field(min_length=1), BeforeValidator(wrap_text), expect("a digest, or a list of them, in quotes")
]
MeasuredMetric = Annotated[Text, expect("the name of a metric"), AfterValidator(require_measured)]
TagName = Annotated[Text, expect("text"), AfterValidator(require_writable)]
TagValue = Annotated[Text | None, expect("text in quotes, or null for any value")]


class Part(Record):
    """A mapping in the file with the rules. A field without a value is a mistake: it would ask for nothing."""

    @field_validator("*", mode="before")
    @classmethod
    def refuse_empty(cls, value: Any) -> Any:
        if value is None or value == {}:
            raise build_mistake("is empty; fill it or remove it")
        return value


class Bounds(Part):
    """A metric's least and greatest value, both allowed."""

    min: Bound | None = None
    max: Bound | None = None

    @model_validator(mode="after")
    def require_bound(self) -> Bounds:
        if self.min is None and self.max is None:
            raise build_mistake("has no bound; expected min or max or both")
        return self


class NotWorse(Part):
    """How much worse than the champion a candidate may be, by one of three limits.

    Attributes:
        by: in the metric's unit.
        relative: a fraction of the champion's value.
        significant: the p value of McNemar's test below which a worse candidate is refused.
    """

    metric: MeasuredMetric
    by: Annotated[Number, Field(ge=0), expect("a number from 0")] | None = None
    relative: Fraction | None = None
    significant: Fraction | None = None
    lower_is_better: Flag | None = None

    @model_validator(mode="before")
    @classmethod
    def require_limit(cls, facts: Any) -> Any:
        if isinstance(facts, dict) and (count := sum(name in facts for name in LIMITS)) != 1:
            raise build_mistake(f"has {count} limits; expected one of {', '.join(LIMITS)}")
        return facts

    @property
    def kind(self) -> str:
        return next(name for name in LIMITS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        return getattr(self, self.kind)

    @property
    def is_lower_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER if self.lower_is_better is None else self.lower_is_better


class Approval(Part):
    """A tag that says that somebody approved."""

    tag: Annotated[Text, expect("the name of a tag"), AfterValidator(require_own)]
    by_another_user: Flag = False


class Requirements(Part):
    """What the version and its measurement must have."""

    metrics: dict[MeasuredMetric, Bounds] = {}
    dataset_digest: Digests | None = None
    tags: dict[TagName, TagValue] = {}
    signature: Flag = False
    flavor: Annotated[Text, expect("the name of a flavor, such as mlflow_resnet")] | None = None
    max_age_days: Days | None = None


class Rule(Part):
    """Requirements for certain models' versions before an alias may point to them."""

    models: Annotated[Text, expect("a name; * stands for any letters"), require_pattern(validate_model_name)]
    alias: Annotated[Text, expect("an alias; * stands for any letters"), require_pattern(validate_alias)]
    mode: Annotated[Literal["enforce", "dry-run"], expect("enforce or dry-run")] = "enforce"
    require: Requirements = Requirements()
    not_worse: NotWorse | None = None
    approval: Approval | None = None
    signed: Flag = False
    logged: Flag = False
    rollback: Annotated[Literal["previous", "forbidden"], expect("previous or forbidden")] = "previous"
    remove: Annotated[Literal["forbidden", "allowed"], expect("forbidden or allowed")] = "forbidden"

    @property
    def is_enforced(self) -> bool:
        return self.mode == "enforce"

    @property
    def allows_rollback(self) -> bool:
        return self.rollback == "previous"

    def covers(self, name: str) -> bool:
        return matches_pattern(name, self.models)

    def guards(self, name: str, alias: str) -> bool:
        return self.covers(name) and matches_pattern(alias, self.alias)
