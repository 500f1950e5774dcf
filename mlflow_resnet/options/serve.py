"""The options of `serve`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.options.base import Options, device_option, option


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Options):
    """Serve a registered version over HTTP, like mlflow models serve; every answer names the version.

    MODEL_URI is a version, models:/NAME/3, or an alias, models:/NAME@ALIAS.
    """

    examples = "mlflow-resnet serve models:/flowers@champion --follow --workers 2"

    model_uri: str = option("registered version to serve, such as models:/digits@champion", is_argument=True)
    host: str = option("address to listen at; 0.0.0.0: all of this machine's", "127.0.0.1")
    port: int = option("port to listen at", 5001, at_least=1, at_most=65535)
    workers: int = option("processes, each with the model and its share of the cores", 1, at_least=1)
    follow: bool = option("when the alias moves, load that version and switch to it", False)
    poll_seconds: float = option("how often to ask the registry where the alias is", 10.0, above=0)
    max_body_mib: int = option(
        "MiB that a Parquet body may have, and a JSON or CSV body a quarter; four are held at once", 128, at_least=4
    )
    shadow: str = option("registered version or alias that is asked too, in the background; empty: none", "")
    shadow_share: float = option("of the requests that it is asked", 0.1, above=0, at_most=1)
    page: bool = option("answer / with a page that says what is served and takes a dropped picture", True)
    openapi: bool = option("answer /openapi.json with a description of what can be asked", False)
    device: str = device_option()

    def combinations(self) -> list[str]:
        if self.follow and "@" not in self.model_uri:
            return [f"follow needs an alias, such as models:/digits@champion, and model_uri is {self.model_uri!r}"]
        return []
