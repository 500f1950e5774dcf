"""What a server has of MLflow's interface, learned from its answers, once in a process.

Azure ML and servers of MLflow 2 have no logged models, Azure ML has no aliases. They answer such requests with a 404
that holds no word of MLflow's. Any other failure says nothing about what a server has, and stays an error.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from enum import Enum

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    ENDPOINT_NOT_FOUND,
    INVALID_PARAMETER_VALUE,
    NOT_IMPLEMENTED,
    RESOURCE_DOES_NOT_EXIST,
    ErrorCode,
)

from mlflow_resnet.errors import MissingAbilityError, join_names
from mlflow_resnet.io.console import say

MISSING_CODES = (ErrorCode.Name(ENDPOINT_NOT_FOUND), ErrorCode.Name(NOT_IMPLEMENTED))
UNKNOWN_CODES = (ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE))
NOBODY = uuid.uuid4().hex  # neither a run nor a registered model has this name


class Ability(Enum):
    """What some servers lack."""

    LOGGED_MODELS = "logged models"
    INPUTS = "data sets of runs"
    ALIASES = "aliases"
    VERSION_TAGS = "tags of versions"


QUESTIONS: dict[Ability, Callable[[MlflowClient], object]] = {  # about nobody, so that they change nothing
    Ability.LOGGED_MODELS: lambda client: client.search_logged_models(["0"], max_results=1),
    Ability.INPUTS: lambda client: client.log_inputs(NOBODY, []),
    Ability.ALIASES: lambda client: client.get_model_version_by_alias(NOBODY, "champion"),
    Ability.VERSION_TAGS: lambda client: client.set_model_version_tag(NOBODY, "1", "key", "value"),
}
TRACKING = (Ability.LOGGED_MODELS, Ability.INPUTS)  # the others are a registry's
_known: dict[tuple[str, Ability], bool] = {}
_told: set[str] = set()  # the servers of which was said what they lack


def has(ability: Ability, is_told: bool = True) -> bool:
    """Returns whether the server has an ability; asks it if that is not known yet. Raises any unclear answer.

    Args:
        is_told: whether a lack is said, because something is left out for it.
    """
    is_known = _known.get((locate_server(ability), ability)) is True
    return is_known or attempt(ability, lambda: ask(QUESTIONS[ability]), is_told)


def attempt(ability: Ability, request: Callable[[], object], is_told: bool = True) -> bool:
    """Sends a request, unless the server lacks the ability that it needs; returns whether it was taken.

    Raises:
        Exception: of the request, unless it says clearly that the server has no such thing.
    """
    uri = locate_server(ability)
    if _known.get((uri, ability)) is not False:
        try:
            request()
        except MlflowException as error:
            if error.error_code not in MISSING_CODES:
                raise
            note_missing(uri, ability)
        else:
            _known[uri, ability] = True
            return True
    if is_told:
        tell_missing(uri)
    return False


def has_aliases(name: str, alias: str, is_told: bool = True) -> bool:
    """Returns whether the registry has aliases. It is asked for the one that is needed."""
    return attempt(Ability.ALIASES, lambda: ask(lambda client: client.get_model_version_by_alias(name, alias)), is_told)


def require_aliases(verb: str, name: str, alias: str) -> None:
    """Raises MissingAbilityError if the registry has no aliases."""
    if not has_aliases(name, alias, is_told=False):
        raise MissingAbilityError(mlflow.get_registry_uri(), Ability.ALIASES.value, verb)


def locate_server(ability: Ability) -> str:
    return str(mlflow.get_tracking_uri() if ability in TRACKING else mlflow.get_registry_uri())


def ask(question: Callable[[MlflowClient], object]) -> None:
    """Raises an error unless the server understands the question."""
    try:
        question(MlflowClient())
    except MlflowException as error:
        if error.error_code not in UNKNOWN_CODES:
            raise


def note_missing(uri: str, ability: Ability) -> None:
    """Notes that a server lacks an ability, and asks at once for all others that it may lack.

    Raises:
        Exception: if it does not answer what every server answers: then a 404 means nothing.
    """
    client = MlflowClient()
    if ability in TRACKING:
        client.search_experiments(max_results=1)
    else:
        client.search_registered_models(max_results=1)
    _known[uri, ability] = False
    for each in Ability:
        if locate_server(each) == uri and (uri, each) not in _known and lacks(each):
            _known[uri, each] = False


def lacks(ability: Ability) -> bool:
    """Returns whether the server says clearly that it lacks an ability."""
    try:
        ask(QUESTIONS[ability])
    except MlflowException as error:
        return error.error_code in MISSING_CODES
    return False


def tell_missing(uri: str) -> None:
    """Says once, in one line, what a server lacks."""
    if uri in _told:
        return
    _told.add(uri)
    missing = [each for each in Ability if _known.get((uri, each)) is False]
    where = "; models are kept among the artifacts of their runs" if Ability.LOGGED_MODELS in missing else ""
    say(f"MLflow at {uri} has no {join_names(each.value for each in missing)}, so these are left out{where}")
