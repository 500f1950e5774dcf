"""The options of every command: names, defaults, units and checks, in one frozen dataclass per verb.

The command line, the MLproject parameters and a run's params all derive from these fields. "" and 0 mean "not given"
where the help says so, because MLproject parameters are strings with a default; "auto" leaves a value to the recipe.

base      fields that know their help text and limits, and the class that checks them
train     the options of `train`
tuning    the options of `find-lr` and `sweep`
serving   the options of `serve`
predict   the parameters of a model's `predict`
export    the options of `export`
registry  the options of `promote`, `rollback` and `shadow`
verbs     the options of the other verbs
"""

from mlflow_resnet.options.base import AUTO, METRICS, Options
from mlflow_resnet.options.export import ExportOptions
from mlflow_resnet.options.predict import PARAMS, PredictOptions, predict_options, unknown_params
from mlflow_resnet.options.registry import PromoteOptions, RollbackOptions, ShadowOptions
from mlflow_resnet.options.serving import ServeOptions
from mlflow_resnet.options.train import ARCHITECTURES, STAGES, WITHOUT_EFFECT, TrainOptions
from mlflow_resnet.options.tuning import FindLrOptions, SweepOptions
from mlflow_resnet.options.verbs import (
    FINDINGS,
    AuditOptions,
    ConvertOptions,
    DemoOptions,
    EvaluateOptions,
    ExplainOptions,
    ScoreOptions,
    SplitOptions,
    TransformOptions,
)

# those that are MLproject entry points too; `serve` is none, because a run would last as long as the server
VERBS: tuple[type[Options], ...] = (
    TrainOptions,
    FindLrOptions,
    SweepOptions,
    ScoreOptions,
    EvaluateOptions,
    ExplainOptions,
    ExportOptions,
    PromoteOptions,
    RollbackOptions,
    ShadowOptions,
    ConvertOptions,
    SplitOptions,
    AuditOptions,
    TransformOptions,
    DemoOptions,
)

__all__ = [
    "ARCHITECTURES",
    "AUTO",
    "FINDINGS",
    "METRICS",
    "PARAMS",
    "STAGES",
    "VERBS",
    "AuditOptions",
    "ConvertOptions",
    "DemoOptions",
    "EvaluateOptions",
    "ExplainOptions",
    "ExportOptions",
    "FindLrOptions",
    "Options",
    "PredictOptions",
    "PromoteOptions",
    "RollbackOptions",
    "ScoreOptions",
    "ServeOptions",
    "ShadowOptions",
    "SplitOptions",
    "SweepOptions",
    "WITHOUT_EFFECT",
    "TrainOptions",
    "TransformOptions",
    "predict_options",
    "unknown_params",
]
