"""Several users call everything at once, and what is there afterwards must be allowed: see checker/__init__.py."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker.actions import PLAYED
from checker.found import FOUND
from checker.judge import check
from checker.program import play
from checker.run import search
from checker.server import site
from checker.world import Site


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def crowd(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, empty_database: Path
) -> Iterator[Site]:
    with site(request.param, tmp_path_factory.mktemp("crowd"), empty_database) as found:
        yield found


@pytest.mark.parametrize("name", FOUND)
def test_a_hole_that_was_found_once_is_closed(crowd, name):
    play(FOUND[name], crowd, check)


def test_nobody_unproven_is_champion_whatever_several_users_do_at_once(crowd):
    number = random.randrange(10**6)
    print(f"seed {number}")
    told = search(crowd, number, steps=60)
    print(told)
    assert told.steps >= 60


@pytest.mark.slow
def test_nor_in_thousands_of_steps(crowd):
    number = random.randrange(10**6)
    print(f"seed {number}")
    told = search(crowd, number, steps=3000)
    print(told)
    assert told.answers["200"] > 100, "too little was allowed to show anything"
    assert told.answers["403"] > 100, "too little was refused to show anything"


READS = r"search|get-latest-versions|presigned-download-url|batchGet|metrics$|filter-correlation"
ELSEWHERE = {  # routes that change something, and why no program plays them
    r"/mlflow/(traces|issues|label-schemas|datasets|scorers?|review-queues|mcp-servers|assistant)\b": (
        "neither read nor write the registry, logged models or their files"
    ),
    r"/v1/traces|(/mlflow)?/gateway": "traces and language models, which have tables of their own",
    r"(/mlflow)?/jobs|/mlflow/(prompt-optimization|demo|genai)": "jobs",
    r"/mlflow/(ui-telemetry|runs/create-promptlab-run)": "the UI; makes a run, which runs/create does too",
    r"/mlflow/experiments/search-datasets": "reads; MLflow has not made it yet",
    r"/mlflow/webhooks": "tell others, and change nothing here",
    r"/mlflow/workspaces": "docs/gate.md says what an operator does about them; the server has none",
    r"/graphql": "searches only; its one mutation is a test of MLflow's own",
}


def routes() -> set[tuple[str, str]]:
    """Of MLflow's server, both its halves: methods that may change something, and paths without their version."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import app as outer

    found = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods}
    found |= {(method.upper(), path) for path, known in outer.openapi()["paths"].items() for method in known}
    return {(method, plain(path)) for method, path in found if method not in ("GET", "HEAD", "OPTIONS")}


def plain(path: str) -> str:
    """A path without its version, and with its parameters as Flask writes them."""
    path = re.sub(r"^/(ajax-)?api/\d\.0/?", "/", path)
    return re.sub(r"\{(\w+)\}|<path:(\w+)>", r"<\1\2>", path)


def test_every_route_that_changes_something_is_played_or_said_to_be_elsewhere():
    """A route that a newer MLflow adds fails here until somebody has looked at it."""
    played = {(method, plain(path)) for method, path in PLAYED}
    unknown = {
        (method, path)
        for method, path in routes() - played
        if not re.search(READS, path) and not any(re.match(known, path) for known in ELSEWHERE)
    }
    assert not unknown
    assert routes() >= played
