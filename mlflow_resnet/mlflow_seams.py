"""What this package assumes of MLflow (3.1 to 3.17) without its promise: private names, replaced functions, wordings.

No other module has a name of MLflow that begins with an underscore. tests/test_mlflow_seams.py has a test for each
assumption. Client and gate import this module, so imports that take long stand inside of the functions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial, wraps
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from mlflow.environment_variables import _MLFLOW_IS_IN_SERVING_ENVIRONMENT, MLFLOW_DEFAULT_PREDICTION_DEVICE
from mlflow.utils import validation
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_ARTIFACTS, MLFLOW_RUN_NOTE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import RegisteredModel
    from mlflow.models.evaluation import EvaluationArtifact
    from mlflow.store.artifact.artifact_repo import ArtifactRepository
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
    from mlflow.store.tracking.abstract_store import AbstractStore

# Names that MLflow gives to things.
DATASET_CONTEXT_TAG = MLFLOW_DATASET_CONTEXT  # of an input of a run: what it was used for
TABLES_TAG = MLFLOW_LOGGED_ARTIFACTS  # of a run, JSON: the tables that the UI shows
NOTE_TAG = MLFLOW_RUN_NOTE  # of a run: the description that the UI shows, in Markdown
PROMPT_SOURCES = ("prompt-template", "dummy-source")  # of registered versions that are prompts and have no files
CODE_FIELD = "code"  # of the pyfunc flavor in MLmodel: what comes to the front of sys.path, a folder or an archive
SERVING_VARIABLE = _MLFLOW_IS_IN_SERVING_ENVIRONMENT.name  # "true" in processes that answer HTTP requests
CONFIGURATION_VARIABLE = "MLFLOW_PYFUNC_INFERENCE_CONFIG"  # JSON that overrides the configuration of any pyfunc
DEFAULT_DEVICE_VARIABLE = MLFLOW_DEFAULT_PREDICTION_DEVICE.name
SCORING_SERVER_VARIABLE = "__pyfunc_model_path__"  # set in `mlflow models serve`: scoring_server._SERVER_MODEL_PATH
USER_OF_REQUEST = "mlflow_authenticated_user"  # of flask.g: who has logged in

# Wordings of MLflow's messages.
ERROR_MARK = "\nError: "  # in a refusal of the scoring server, between the input and what is wrong with it
NOT_JSON = "JSONDecodeError"
PLACE_IN_JSON = r"JSONDecodeError\(.{0,80}(line \d+ column \d+ \(char \d+\))"
NOT_ONE_INPUT = "exactly one of the input fields"
NOT_CSV = "valid CSV-formatted"
NOT_PARQUET = "valid Parquet"
PARAMS_NOT_A_DICTIONARY = "Parameters must be a dictionary"
PARAMS_OF_OTHER_TYPES = "Invalid parameters found"
AMBIGUOUS_SOURCE = "The specified dataset source can be interpreted in multiple ways"  # a warning


def is_scoring_server() -> bool:
    """Returns whether this process is one of `mlflow models serve`."""
    return SCORING_SERVER_VARIABLE in os.environ


# Models


def make_conda_env(requirements: list[str]) -> dict[str, Any]:
    """Returns the conda environment of a flavor that has these pip requirements."""
    from mlflow.utils.environment import _mlflow_conda_env

    return _mlflow_conda_env(additional_pip_deps=requirements)


def load_evaluation_artifact(artifact: EvaluationArtifact, path: Path) -> None:
    """Reads the content of an artifact from a local file, so that it need not be downloaded from its URI."""
    artifact._load(path)


def detach_active_run(status: str) -> Callable[[], None]:
    """Ends the active run in this process, as `mlflow.end_run` does. The function that is returned tells the server."""
    from mlflow import MlflowClient
    from mlflow.environment_variables import MLFLOW_RUN_ID
    from mlflow.tracking import fluent

    run_id = fluent._active_run_stack.get().pop().info.run_id
    fluent._last_active_run_id.set(run_id)
    MLFLOW_RUN_ID.unset()
    monitor = fluent.run_id_to_system_metrics_monitor.pop(run_id, None)

    def tell() -> None:
        MlflowClient().set_terminated(run_id, status)
        if monitor:
            monitor.finish()

    return tell


# The registry's store and the server around it

validate_model_name = validation._validate_model_name  # raises MlflowException for one that the registry does not take


def validate_alias(alias: str) -> None:
    """Raises MlflowException for an alias that the registry does not take."""
    validation._validate_model_alias_name(alias)
    validation._validate_model_alias_name_reserved(alias)


def query_rows(store: SqlAlchemyStore, session: Any, table: Any) -> Any:
    """Returns SQLAlchemy's query of all rows of a table of the registry that belong to the workspace."""
    return store._get_query(session, table)


def find_model_row(store: SqlAlchemyStore, session: Any, name: str) -> Any:
    """Returns the row of a registered model; MlflowException if there is none."""
    return store._get_registered_model(session, name)


def get_all_tags(model: RegisteredModel) -> dict[str, str]:
    """Returns the tags of a model as clients will see them, and the tag of prompts; the dict may be changed."""
    return model._tags


def get_servers_tracking_store() -> AbstractStore:
    """Returns the tracking store of the MLflow server that runs in this process."""
    from mlflow.server.handlers import _get_tracking_store

    return _get_tracking_store()


def locate_artifact(location: str, name: str) -> tuple[ArtifactRepository, str]:
    """Returns where the MLflow server in this process finds the file `name` of artifacts: repository and path."""
    from mlflow.server import handlers
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    if not handlers._is_servable_proxied_run_artifact_root(location):
        return get_artifact_repository(location), name
    inside = handlers._get_proxied_run_artifact_destination_path(location, name)
    path = handlers._get_workspace_scoped_repo_path_if_enabled(inside) or ""
    return handlers._get_artifact_repo_mlflow_artifacts(), path


# Functions of MLflow that have no hook and are replaced


def replace_input_check(replacement: Callable[..., Any]) -> None:
    """Has MLflow call `replacement(original, data, params, input_schema, params_schema, flavor)` before a prediction.

    `original` compares data and params with the signature of a model and returns both as the model gets them. `flavor`
    is the model's loader_module.
    """
    replace_function(import_module("mlflow.pyfunc"), "_validate_prediction_input", replacement)


def replace_invocations(replacement: Callable[..., Any]) -> None:
    """Has MLflow's scoring server call `replacement(original, body, content type, model, input schema)` for a request.

    MlflowExceptions become answers.
    """
    replace_function(import_module("mlflow.pyfunc.scoring_server"), "invocations", replacement)


def call_in_server_loop(function: Callable[[], object]) -> None:
    """Has MLflow's scoring server call a function once in its event loop, before it answers the first request.

    It must be called before `scoring_server.init`, as it is while a model is loaded: that decorates what answers.
    """
    scoring_server: Any = import_module("mlflow.pyfunc.scoring_server")
    decorate, call_once = scoring_server._async_catch_mlflow_exception, cache(function)

    def decorate_again(answer: Callable[..., Any]) -> Callable[..., Any]:
        decorated = decorate(answer)

        @wraps(decorated)
        async def answer_in_loop(*args: Any, **kwargs: Any) -> Any:
            call_once()
            return await decorated(*args, **kwargs)

        return answer_in_loop

    scoring_server._async_catch_mlflow_exception = decorate_again


def replace_function(module: ModuleType, name: str, replacement: Callable[..., Any]) -> None:
    """Puts `replacement`, which gets the original first, in the place of a function, or of an earlier replacement."""
    current = getattr(module, name)
    original = current.args[-1] if isinstance(current, partial) else current
    setattr(module, name, partial(replacement, original))


def wrap_builtin_evaluate(module: Any, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Wraps `evaluate` of MLflow's own evaluators, which are in `module`, with a functools.wraps decorator."""
    evaluate = module.BuiltInEvaluator.evaluate
    if not hasattr(evaluate, "__wrapped__"):
        module.BuiltInEvaluator.evaluate = wrap(evaluate)
