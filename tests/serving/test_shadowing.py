"""A challenger that is asked in the background, beside the champion."""

import json
import signal

import mlflow
import pytest
import requests
from helpers import run_main, wait_for
from served import NAME, Registry, log_version, serving

import mlflow_resnet
from mlflow_resnet.model.preprocessing import Preprocessing

OTHER = f"{NAME} with a shadow"


@pytest.fixture(scope="module")
def registry(tracking):
    """Version 1 is the champion, 2 answers otherwise, and 3 as 1 does."""
    found = Registry(OTHER, {})
    for seed in (1, 2, 1):
        found.add(seed)
    found.move("1")
    found.move("2", "challenger")
    return found


def count_shadowed(running):
    facts = running.model()["shadow"]
    return sum(facts[name] for name in ("same", "different", "failed", "left_out"))


@pytest.mark.parametrize(("version", "uri"), [("2", f"models:/{OTHER}@challenger"), ("3", f"models:/{OTHER}/3")])
def test_its_agreement_is_seen_by_monitors_and_is_a_run_at_the_end(version, uri, registry, tmp_path):
    labels = [answer.argmax() for answer in (registry.answers["1"], registry.answers[version])]
    agreement = float(labels[0] == labels[1])
    with serving(tmp_path, OTHER, "--shadow", uri, "--shadow-share", 1) as running:
        for number in range(8):
            answer = running.ask_in_turn(number, OTHER)
            assert answer.headers["X-Model-Version"] == "1"
            assert registry.agrees(answer)
            wait_for(lambda done=number + 1: count_shadowed(running) == done, pause=0.02)
        facts = running.model()["shadow"]
        assert (facts["name"], facts["version"], facts["agreement"]) == (OTHER, version, agreement)
        outcome = "same" if agreement else "different"
        text = requests.get(f"{running.url}/metrics", timeout=60).text
        assert f'mlflow_resnet_shadow_images_total{{outcome="{outcome}",version="{version}"}} 8.0' in text
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(60) == 143
    run = mlflow.search_runs(output_format="list", order_by=["start_time DESC"], max_results=1)[0]
    assert run.info.run_name == f"shadow models:/{OTHER}/{version}"
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {
        "shadow/agreement": agreement,
        "shadow/images": 8,
        "shadow/disagreements": 0 if agreement else 8,
    }
    changes = json.loads(mlflow.artifacts.load_text(f"{run.info.artifact_uri}/shadow/changes.json"))
    assert sum(row[2] for row in changes["data"]) == (0 if agreement else 8)


def test_a_challenger_with_other_classes_is_refused(registry, tmp_path):
    other = mlflow_resnet.new_classifier("resnet18", ("x", "y"), Preprocessing(resize_size=36, crop_size=32))
    number = log_version(other, f"{NAME} of others")
    done = run_main("serve", f"models:/{OTHER}@champion", "--shadow", f"models:/{NAME} of others/{number}")
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()[-1:]
    assert "has the classes 007, blue sky" in line
