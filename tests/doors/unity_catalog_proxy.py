"""A proxy before a real MLflow server that refuses what the registry of Unity Catalog refuses.

The rules are those of Databricks' documentation (database-objects/tags, manage-model-lifecycle) and of MLflow's own
client for it, mlflow/store/_unity_catalog/registry/rest_store.py. Messages and codes of errors are ours.
"""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import requests
import yaml
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from proxy import Forwarding, running

API = "/api/2.0/mlflow/"
REFUSED_IN_KEYS = set(".,-=/:")
MOST_TAGS, LONGEST_KEY, LONGEST_VALUE = 50, 255, 1000
NAME = re.compile(r"[^./ ]{1,255}\.[^./ ]{1,255}\.[^./ ]{1,255}")
FILTER = re.compile(r"(name|run_id) ?= ?'[^']*'")
OF_MLFLOW = f"tag.`{IS_PROMPT_TAG_KEY}` != 'true'"  # its client adds this for every registry but Unity Catalog
WITHOUT = {"model-versions/transition-stage": "stages", "registered-models/get-latest-versions": "stages"}


class UnityCatalog(ThreadingHTTPServer):
    """`requests` lists what came: method, path and what was wrong with it, or ""."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), Refusing)
        self.upstream, self.requests = upstream, []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def ask(self, path: str, **params: str) -> dict:
        return requests.get(self.upstream + API + path, params=params, timeout=60).json()

    def find_problem(self, path: str, body: dict) -> str:
        """Returns why a request is refused; empty if it is not."""
        if not path.startswith(("registered-models/", "model-versions/")):
            return ""
        if path in WITHOUT:
            return f"{WITHOUT[path]} are not supported"
        if path.endswith("-versions/search") and not FILTER.fullmatch(body.get("filter") or ""):
            return f"filter is {body.get('filter')!r}; expected name = '...' or run_id = '...'"
        if path == "registered-models/search" and body.get("filter") not in (None, "", OF_MLFLOW):
            return "filter is not supported"
        if path.endswith("/search") and body.get("order_by"):
            return "order_by is not supported"
        if path == "registered-models/create" and not NAME.fullmatch(body["name"]):
            return f"name is {body['name']!r}; expected catalog.schema.model"
        if path == "model-versions/create" and not self.has_signature(body["source"]):
            return "the model has no signature with inputs and outputs"
        tags = [*body.get("tags", ()), *([body] if path.endswith("/set-tag") else [])]
        return next(filter(None, (find_tag_problem(tag) for tag in tags)), self.find_surplus(path, body, tags))

    def find_surplus(self, path: str, body: dict, tags: list[dict]) -> str:
        """Returns whether an object would have too many tags."""
        known: set[str] = set()
        if path == "registered-models/set-tag":
            known = keys_of(self.ask("registered-models/get", name=body["name"])["registered_model"])
        elif path == "model-versions/set-tag":
            found = self.ask("model-versions/get", name=body["name"], version=body["version"])
            known = keys_of(found["model_version"])
        count = len(known | {tag["key"] for tag in tags})
        return f"{count} tags; expected at most {MOST_TAGS}" if count > MOST_TAGS else ""

    def has_signature(self, source: str) -> bool:
        model_id = source.removeprefix("models:/")
        place = f"{self.upstream}/ajax-api/2.0/mlflow/logged-models/{model_id}/artifacts/files"
        answer = requests.get(place, params={"artifact_file_path": "MLmodel"}, timeout=60)
        signature = yaml.safe_load(answer.text).get("signature") if answer.ok else None
        return bool(signature and signature.get("inputs") and signature.get("outputs"))


class Refusing(Forwarding):
    def forward(self) -> None:
        server, content, place = self.server, self.content(), urlsplit(self.path)
        path = place.path.removeprefix(API)
        asked = {name: values[0] for name, values in parse_qs(place.query).items()}
        is_json = content and self.headers.get("Content-Type", "").startswith("application/json")
        problem = server.find_problem(path, asked | (json.loads(content) if is_json else {}))
        server.requests.append((self.command, path, problem))
        if problem:
            body = json.dumps({"error_code": "INVALID_PARAMETER_VALUE", "message": problem}).encode()
            return self.answer(400, [("Content-Type", "application/json")], body)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        headers["Accept-Encoding"] = "identity"
        answer = requests.request(self.command, server.upstream + self.path, data=content, headers=headers, timeout=60)
        body = without_tags(answer.content) if path.endswith("-versions/search") else answer.content
        return self.answer(answer.status_code, answer.headers.items(), body)

    do_GET = do_PUT = do_HEAD = do_POST = do_PATCH = do_DELETE = forward


def find_tag_problem(tag: dict) -> str:
    key, value = tag["key"], tag.get("value", "")
    if REFUSED_IN_KEYS & set(key) or key != key.strip() or not 0 < len(key) <= LONGEST_KEY:
        return f"key {key!r} is not allowed"
    if value != value.strip():
        return f"value {value!r} is not allowed"
    return f"value of {key} has {len(value)} characters" if len(value) > LONGEST_VALUE else ""


def keys_of(found: dict) -> set[str]:
    return {tag["key"] for tag in found.get("tags", ())}


def without_tags(content: bytes) -> bytes:
    """Unity Catalog's answers to a search have neither tags nor aliases."""
    found = json.loads(content)
    for each in found.get("model_versions", ()):
        each.pop("tags", None), each.pop("aliases", None)
    return json.dumps(found).encode()


def unity_catalog(upstream: str) -> AbstractContextManager[UnityCatalog]:
    """A running UnityCatalog."""
    return running(UnityCatalog(upstream))
