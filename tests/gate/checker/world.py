"""One program's models: what its users truly did, and what the database and the server say of them."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests
import sqlalchemy as sa

from checker.people import WAIT_HEADER
from checker.rules import RULES, STRICT, text_of
from mlflow_resnet.registry.evidence import Evidence

USERS = ("ann", "ben", "cat")
PASSWORD = "correct horse"
ACCURACY = (0.98, 0.92, 0.6, 0.3)  # what each program's logged models truly have
KEY = "sekret"  # of who measures
NAMES_OF_DIGEST = Evidence.model_fields.keys() & {"model_sha256", "weights_sha256"}
DIGEST = min(NAMES_OF_DIGEST)  # the field that says what was measured, and the param of the logged model
READY = "LOGGED_MODEL_READY"
TIMEOUT = 60


@dataclass(frozen=True)
class Answer:
    """What the server said to one request."""

    who: str
    method: str
    path: str
    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class LoggedModel:
    model_id: str
    digest: str
    location: str
    accuracy: float


@dataclass(frozen=True)
class Row:
    """A registered model as the database has it."""

    tags: dict[str, str]
    aliases: dict[str, int]
    locations: dict[int, str]  # of its versions' files; those of deleted versions too
    version_tags: dict[int, dict[str, str]]


class Site:
    """A server, its database and its users; one for many programs."""

    def __init__(self, url: str, database: str, policy: Path) -> None:
        self.url, self.policy = url, policy
        self.engine = sa.create_engine(database)
        self.own = threading.local()
        self.programs = 0
        self.is_strict = False

    def request(self, method: str, path: str, who: str, headers: dict[str, str], **more: Any) -> requests.Response:
        """Each time on a new connection: on one that is kept, uvicorn's answers wait 40 ms for TCP."""
        if not hasattr(self.own, "session"):
            self.own.session = requests.Session()
        auth, headers = (who, PASSWORD), headers | {"Connection": "close"}
        return self.own.session.request(method, self.url + path, auth=auth, headers=headers, timeout=TIMEOUT, **more)

    def set_policy(self, strict: bool) -> None:
        """Renames a new file over the old one; who decides meanwhile goes by either."""
        if strict != self.is_strict:
            new = self.policy.with_suffix(".new")
            new.write_text(text_of(STRICT if strict else RULES))
            new.replace(self.policy)
            self.is_strict = strict


@dataclass
class World:
    """What one program plays with. Names end with the program's number, so nobody else uses them.

    Attributes:
        names: all that any step spoke of.
        answers: all of them, in the order in which they came.
        genuine: texts of evidence that somebody with the key measured.
        said: by the name of a tag, all texts of evidence that anybody wrote.
        facts: by such a text, what it says.
        logged: by model id and digest of the data, the values that anybody logged.
        approvers: by version, who said yes.
        spoke: who said yes or no to any.
    """

    site: Site
    number: int
    answers: list[Answer] = field(default_factory=list)
    models: dict[int, LoggedModel] = field(default_factory=dict)
    genuine: set[str] = field(default_factory=set)
    said: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    logged: dict[tuple[str, str], set[float]] = field(default_factory=lambda: defaultdict(set))
    approvers: dict[int, set[str]] = field(default_factory=lambda: defaultdict(set))
    spoke: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    runs: list[str] = field(default_factory=list)
    waits: threading.local = field(default_factory=threading.local)
    logging: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        made = self.send("ann", "POST", "experiments/create", name=f"experiment {self.number}")
        self.experiment = made.body["experiment_id"]

    def name(self, kind: str) -> str:
        found = f"{kind}-{self.number}"
        self.names.add(found)
        return found

    def send(
        self, who: str, method: str, path: str, /, api: str = "api/2.0/mlflow", data: Any = None, **body: Any
    ) -> Answer:
        """A raw request, as anybody with curl can send it."""
        wait = getattr(self.waits, "header", "")
        headers = {WAIT_HEADER: wait} if wait else {}
        sent = {"params": body} if method == "GET" or data is not None else {"json": body}
        answer = self.site.request(method, f"/{api}/{quote(path, safe='/?=')}", who, headers, data=data, **sent)
        try:
            found = answer.json()
        except ValueError:
            found = {"message": answer.text}
        given = Answer(who, method, path, answer.status_code, found if isinstance(found, dict) else {})
        self.answers.append(given)
        return given

    def model(self, quality: int) -> LoggedModel:
        """The logged model of a quality, made when it is first wanted."""
        with self.logging:
            if quality not in self.models:
                self.models[quality] = self.log_model("ann", quality)
            return self.models[quality]

    def log_model(self, who: str, quality: int) -> LoggedModel:
        """A logged model that is ready, with the digest of what it is."""
        digest = f"{self.number:032x}{quality:032x}"
        params = [{"key": DIGEST, "value": digest}]
        body = {"experiment_id": self.experiment, "name": "model", "params": params}
        info = self.insist(who, "logged-models", **body)["model"]["info"]
        self.send(who, "PATCH", f"logged-models/{info['model_id']}", model_id=info["model_id"], status=READY)
        return LoggedModel(info["model_id"], digest, info["artifact_uri"], ACCURACY[quality])

    def insist(self, who: str, path: str, **body: Any) -> dict[str, Any]:
        """Makes something in the experiment, which another user may have deleted for a moment."""
        for _ in range(50):
            answer = self.send(who, "POST", path, **body)
            if answer.status == 200:
                return answer.body
            time.sleep(0.1)
        raise AssertionError(answer)

    def model_at(self, location: str) -> LoggedModel | None:
        """The logged model whose files are there."""
        return next((model for model in list(self.models.values()) if model.location == location), None)

    def get_model(self, who: str, name: str) -> dict[str, Any]:
        return self.send(who, "GET", "registered-models/get", name=name).body.get("registered_model", {})

    def rows(self) -> dict[str, Row]:
        """This program's registered models, by name."""
        end = {"end": f"%-{self.number}"}
        with self.site.engine.connect() as connection:
            names = [each[0] for each in connection.execute(sa.text(NAMES), end)]
            found = {name: Row({}, {}, {}, defaultdict(dict)) for name in names}
            for name, key, value in connection.execute(sa.text(TAGS), end):
                found[name].tags[key] = value
            for name, alias, version in connection.execute(sa.text(ALIASES), end):
                found[name].aliases[alias] = version
            for name, version, location in connection.execute(sa.text(VERSIONS), end):
                found[name].locations[version] = location
            for name, version, key, value in connection.execute(sa.text(VERSION_TAGS), end):
                found[name].version_tags[version][key] = value
        return found


NAMES = "SELECT name FROM registered_models WHERE name LIKE :end"
TAGS = "SELECT name, key, value FROM registered_model_tags WHERE name LIKE :end"
ALIASES = "SELECT name, alias, version FROM registered_model_aliases WHERE name LIKE :end"
VERSIONS = "SELECT name, version, COALESCE(storage_location, source) FROM model_versions WHERE name LIKE :end"
VERSION_TAGS = "SELECT name, version, key, value FROM model_version_tags WHERE name LIKE :end"


def as_json(text: str) -> dict[str, Any]:
    """An object in JSON; an empty one if it is something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
