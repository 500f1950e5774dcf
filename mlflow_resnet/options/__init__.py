"""What each verb may be asked: names, defaults, units and checks, in one frozen dataclass per verb.

The command line, the entry points of MLproject, the functions of the package and a run's params derive from these
classes: `VERBS` names them, `<verb>.py` here holds one. "" and 0 mean "not given" where the help says so, because
parameters of MLproject are text; "auto" leaves a value to the recipe.

base          fields that know their help text and limits, and the class that checks them
metric_names  what metrics are called, and which direction is better
formats       what a model can be exported to, and what can predict with it
predict       the parameters of a model's `predict`
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

VERBS = (  # in the order in which they are shown
    "train",
    "sync",
    "find_lr",
    "sweep",
    "score",
    "serve",
    "evaluate",
    "compare",
    "explain",
    "export",
    "promote",
    "rollback",
    "history",
    "champion",
    "shadow",
    "convert",
    "split",
    "audit",
    "transform",
    "demo",
)
_CLASSES = {f"{verb.title().replace('_', '')}Options": verb for verb in VERBS}

__all__ = ["VERBS", "options_class"]  # a literal, which linters read
__all__ += _CLASSES


def options_class(verb: str) -> type[Any]:
    """Import the options class of a verb, such as `ScoreOptions` of `score`."""
    module = import_module(f"mlflow_resnet.options.{verb}")
    return getattr(module, f"{verb.title().replace('_', '')}Options")


def __getattr__(name: str) -> Any:
    if name not in _CLASSES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return options_class(_CLASSES[name])
