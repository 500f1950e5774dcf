"""A proxy that makes of a real MLflow server what Azure ML's tracking server and registry are.

They have the endpoints of MLflow 2 that are listed here. Any other is answered with 404 and an empty body. A version
takes no tags with a colon in their names when it is registered.
"""

import contextlib
import json
import re
import ssl
from urllib.parse import urlsplit

from proxy import FaultyServer, Forwarding, running

ENDPOINTS = {
    "experiments": "create delete get get-by-name restore search set-experiment-tag update",
    "runs": "create delete delete-tag get log-batch log-metric log-parameter restore search set-tag update",
    "metrics": "get-history",
    "artifacts": "list",
    "registered-models": "create delete-tag get get-latest-versions search set-tag update",  # no rename, delete, alias
    "model-versions": "create delete delete-tag get get-download-uri search set-tag transition-stage update",
}
KNOWN = {f"{group}/{name}" for group, names in ENDPOINTS.items() for name in names.split()}
WORKSPACE = "/mlflow/v2.0/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"
REST = re.compile(r"/(?:api|ajax-api)/[23]\.0/mlflow/(?P<endpoint>.+)")
TIED = {"model_id", "dataset_name", "dataset_digest"}  # what MLflow 3 says of a metric


class AzureServer(FaultyServer):
    """Forwards what Azure ML has to `upstream`. `requests` lists (method, path, "404", "400" or "")."""

    def __init__(self, upstream):
        super().__init__(upstream, lambda method, path: "")
        self.RequestHandlerClass = Refusing

    @property
    def refused(self):
        """The endpoints that were answered with 404, in order."""
        return [REST.fullmatch(urlsplit(path).path)["endpoint"] for _, path, fault in self.requests if fault == "404"]


class Refusing(Forwarding):
    def forward(self):
        self.path = self.path.removeprefix(WORKSPACE)
        body = Forwarding.content(self)
        self.content = lambda: body
        rest = REST.fullmatch(urlsplit(self.path).path)
        if rest and rest["endpoint"] not in KNOWN:
            self.refuse(404, b"")
        elif rest and body and (mistake := find_mistake(json.loads(body))):
            self.refuse(400, json.dumps({"error_code": "BAD_REQUEST", "message": mistake}).encode())
        else:
            super().forward()

    def refuse(self, status, body):
        self.server.requests.append((self.command, self.path, str(status)))
        self.answer(status, [("Content-Type", "application/json")], body)

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = forward


def find_mistake(facts):
    """What Azure ML does not take in the body of a request."""
    if any(TIED & metric.keys() for metric in facts.get("metrics", ())):
        return "a metric has fields that are not known"
    if "source" in facts and any(":" in tag["key"] for tag in facts.get("tags", ())):
        return "a tag has a colon in its name"
    return ""


@contextlib.contextmanager
def azure_server(upstream, certificate=None):
    """A running AzureServer, with TLS if there is a file with a key and a certificate."""
    server = AzureServer(upstream)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    with running(server):
        yield server
