"""All public methods of MLflow's registry store, and how the gate treats each.

A method that is not here could move an alias past the gate, so the gate does not start with a store that has one.
After an update of MLflow: read the new method, give it a place here, and override it if it writes what a rule is about.
"""

from __future__ import annotations

from mlflow_resnet.errors import MlflowResnetError

GUARDED = frozenset(  # overridden, because a rule may forbid them
    {
        "create_model_version",
        "create_registered_model",
        "delete_model_version",
        "delete_model_version_tag",
        "delete_registered_model",
        "delete_registered_model_alias",
        "delete_registered_model_tag",
        "rename_registered_model",
        "set_model_version_tag",
        "set_registered_model_alias",
        "set_registered_model_tag",
        "transition_model_version_stage",
    }
)
MADE_OF_GUARDED = frozenset(  # they write through those
    {
        "copy_model_version",
        "create_prompt",
        "create_prompt_version",
        "delete_prompt",
        "delete_prompt_alias",
        "delete_prompt_tag",
        "delete_prompt_version",
        "delete_prompt_version_tag",
        "set_prompt_alias",
        "set_prompt_tag",
        "set_prompt_version_tag",
    }
)
HARMLESS = frozenset(  # they write descriptions, webhooks, and tags of traces, runs and logged models
    {
        "create_webhook",
        "delete_webhook",
        "link_prompt_version_to_model",
        "link_prompt_version_to_run",
        "link_prompts_to_trace",
        "test_webhook",
        "update_model_version",
        "update_registered_model",
        "update_webhook",
    }
)
READING = frozenset(
    {
        "get_latest_versions",
        "get_model_version",
        "get_model_version_by_alias",
        "get_model_version_download_uri",
        "get_prompt",
        "get_prompt_version",
        "get_prompt_version_by_alias",
        "get_registered_model",
        "get_webhook",
        "list_webhooks",
        "list_webhooks_by_event",
        "search_model_versions",
        "search_prompt_versions",
        "search_prompts",
        "search_registered_models",
    }
)
KNOWN = GUARDED | MADE_OF_GUARDED | HARMLESS | READING


class OldServerError(MlflowResnetError):
    """The gate does not know the store of an MLflow this old."""

    def __init__(self, installed: str, oldest: tuple[int, int]) -> None:
        super().__init__(
            f"the gate does not start: it needs MLflow {oldest[0]}.{oldest[1]} or newer in the server, which has "
            f"{installed}. Upgrade it: pip install 'mlflow_resnet[gate]'; clients may stay as they are."
        )


class UnknownMethodsError(MlflowResnetError):
    """MLflow's store has a public method that the gate does not know."""

    def __init__(self, methods: list[str]) -> None:
        super().__init__(
            f"the gate does not start: it does not know what MLflow's registry store does in {', '.join(methods)}. "
            "Install a version of mlflow_resnet that was made for this MLflow, or the MLflow that was here before."
        )


def require_known(store: type) -> None:
    """Raises UnknownMethodsError if the class has a public method that is not listed here."""
    public = (name for name in dir(store) if not name.startswith("_"))
    if strangers := sorted(name for name in public if name not in KNOWN and callable(getattr(store, name))):
        raise UnknownMethodsError(strangers)
