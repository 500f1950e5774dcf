"""Moving an alias, and writing down that it was moved.

A gate store decides in the server, at once for everybody, and writes the history itself. A plain MLflow server takes
any alias from anybody and has no compare-and-set. There these commands agree among themselves: each claims the alias,
waits, and moves it only if nobody else has claimed it meanwhile (Fischer's algorithm, Lamport 1987).
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED, RESOURCE_CONFLICT, ErrorCode
from mlflow.tracking.context.default_context import DefaultRunContext
from mlflow.utils.mlflow_tags import MLFLOW_USER

from mlflow_resnet.errors import PromotionRefusedError
from mlflow_resnet.io.console import say
from mlflow_resnet.io.reasons import one_line
from mlflow_resnet.registry import alias_history, history_archive
from mlflow_resnet.registry.alias_history import Move
from mlflow_resnet.registry.names import encode_name, matches_pattern

GATE_TAG = "mlflow_resnet.gate"  # a gate store shows it on models that have rules: globs of their aliases
CLAIM_TAG = "mlflow_resnet_claim_"
CLAIM_SECONDS = 1.0  # longer than a server takes to move an alias
REFUSALS = {ErrorCode.Name(code) for code in (PERMISSION_DENIED, RESOURCE_CONFLICT)}


def move_alias(move: Move) -> None:
    """Moves the alias if it still is where the move begins; once more after it was moved, completes the history.

    Raises:
        PromotionRefusedError: if the gate refuses, or somebody else moved or claimed the alias meanwhile.
    """
    client = MlflowClient()
    model = client.get_registered_model(move.name)
    if is_guarded(client, model, move.alias):
        set_guarded(client, move)
    elif version_with(model, move.alias) != move.after:
        with claim_alias(client, move) as model:
            if (now := version_with(model, move.alias)) != move.before:
                raise PromotionRefusedError(
                    f"@{move.alias} of {move.name} was moved to {alias_history.format_version(now)} meanwhile; "
                    "run the command again to compare with that one."
                )
            client.set_registered_model_alias(move.name, move.alias, str(move.after))
            note(client, model, move)
    else:
        last = alias_history.newest(model.tags, move.alias)
        if last is None or last.after != move.after:
            note(client, model, move)


def has_gate(model: RegisteredModel, alias: str) -> bool:
    """Returns whether the server reports a gate for the alias. On a plain server any client can claim one."""
    return any(matches_pattern(alias, pattern) for pattern in model.tags.get(GATE_TAG, "").split(", ") if pattern)


def is_guarded(client: MlflowClient, model: RegisteredModel, alias: str) -> bool:
    """Returns whether a gate guards the alias. A gate protects its tag; on a plain server any client may write it."""
    if not has_gate(model, alias):
        return False
    try:
        client.set_registered_model_tag(model.name, GATE_TAG, model.tags[GATE_TAG])
    except MlflowException as error:
        if error.error_code in REFUSALS:
            return True
        raise
    client.delete_registered_model_tag(model.name, GATE_TAG)
    say(f"tag {GATE_TAG} of {model.name} was written by a client, and is removed: this server has no gate")
    return False


def set_guarded(client: MlflowClient, move: Move) -> None:
    try:
        client.set_registered_model_alias(move.name, move.alias, str(move.after))
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        sentence = error.message.removeprefix(f"{error.error_code}: ")
        raise PromotionRefusedError(f"not moved: {sentence}") from None


def set_unproven(version: ModelVersion, alias: str) -> bool:
    """Points an alias to a version that was not compared; returns whether that is so now.

    A gate refuses it, which is told and no error: the version is there, and can be promoted.
    """
    try:
        set_guarded(MlflowClient(), Move(version.name, alias, None, int(version.version), alias_history.PROMOTE))
    except PromotionRefusedError as error:
        say(f"version {version.version} of {version.name} is registered, but @{alias} was {error.message}")
        return False
    return True


def version_with(model: RegisteredModel, alias: str) -> int | None:
    """The version that has the alias, if any."""
    version = model.aliases.get(alias)
    return int(version) if version else None


@contextlib.contextmanager
def claim_alias(client: MlflowClient, move: Move) -> Iterator[RegisteredModel]:
    """Yields the model as it is while no other command of this package moves the alias.

    A claim that was left behind is no bar.
    """
    tag, token = CLAIM_TAG + encode_name(move.alias), f"{find_local_user()} {uuid.uuid4().hex}"
    client.set_registered_model_tag(move.name, tag, token)
    time.sleep(CLAIM_SECONDS)
    model = client.get_registered_model(move.name)
    holder = model.tags.get(tag, "")
    if holder != token:
        whom = holder.rpartition(" ")[0] or "somebody"
        raise PromotionRefusedError(
            f"{whom} is moving @{move.alias} of {move.name} at this moment; run the command again."
        )
    try:
        yield model
    finally:
        if client.get_registered_model(move.name).tags.get(tag) == token:  # and not the claim of somebody later
            client.delete_registered_model_tag(move.name, tag)


def note(client: MlflowClient, model: RegisteredModel, move: Move) -> None:
    """Appends the move to the history of the model, and makes room for it if there is none."""
    entry = alias_history.next_entry(alias_history.newest(model.tags, move.alias), move, find_local_user())
    try:
        if move.after is not None:
            history_archive.move_older(client, model, move.alias, move.after)
    except Exception as error:  # stores of artifacts share no base class of errors
        if not (isinstance(error, MlflowException) and error.error_code in REFUSALS):
            say(f"the older history of @{move.alias} of {move.name} stays in its tags ({one_line(error)})")
    client.set_registered_model_tag(move.name, entry.tag, entry.to_text())


def find_local_user() -> str:
    """Returns the user's name on the server, or else on this system."""
    return DefaultRunContext().tags()[MLFLOW_USER]
