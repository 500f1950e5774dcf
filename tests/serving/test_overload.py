"""A real `mlflow-resnet serve` that is sent more than it can answer."""

import base64
import io
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from helpers import wait_for
from PIL import Image
from served import Registry, serving

pytestmark = pytest.mark.slow
TIMEOUT = 3
MAX_IMAGES = 8
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def registry(tracking):
    registry = Registry("overloaded colors", {})
    registry.add(1)
    registry.move("1")
    return registry


@pytest.fixture(scope="module")
def running(registry, tmp_path_factory):
    env = {
        "MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT": str(TIMEOUT),
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": f'{{"max_images_per_request": {MAX_IMAGES}}}',
    }
    folder = tmp_path_factory.mktemp("overload")
    with serving(folder, registry.name, "--max-body-mib", 16, **env) as running:
        yield running


@pytest.fixture(scope="module")
def heavy():
    """A picture close to the cap of pixels, in base64."""
    file = io.BytesIO()
    Image.new("RGB", (6900, 6900), (200, 60, 40)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def post(running, **arguments):
    began = time.monotonic()
    answer = requests.post(f"{running.url}/invocations", timeout=60, **arguments)
    answer.seconds = time.monotonic() - began
    return answer


def wait_for_an_answer(running, registry):
    """What is still being decoded may make the server say that it is busy, but not for long."""
    answers = []
    wait_for(lambda: answers.append(running.ask()) or answers[-1].ok, TIMEOUT, pause=0.1)
    assert registry.agrees(answers[-1])


def chunks(total):
    for _ in range(total // 2**16):
        yield b" " * 2**16


@pytest.mark.parametrize("is_declared", [True, False])
def test_a_body_over_the_limit_is_not_read(is_declared, running, registry):
    data = b" " * (5 * 2**20) if is_declared else chunks(5 * 2**20)
    answer = post(running, data=data, headers=JSON)
    assert answer.status_code == 413
    assert "over the limit of 4 MiB; send several requests" in answer.text
    assert registry.agrees(running.ask())


def test_8_of_the_largest_requests_hold_up_nobody_for_longer_than_a_request_may_take(running, registry, heavy):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post(running, json={"inputs": [heavy] * MAX_IMAGES}), range(8)))
    assert {answer.status_code for answer in answers} <= {200, 503, 504}
    wait_for_an_answer(running, registry)


def test_who_cannot_be_answered_in_time_is_told_at_once(running, registry, heavy):
    for _ in range(4):
        post(running, json={"inputs": [heavy] * MAX_IMAGES})  # the server learns how long such pictures take
    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(lambda _: post(running, json={"inputs": [heavy]}), range(64)))
    refused = [answer for answer in answers if "too busy to answer within 3 s" in answer.text]
    assert refused
    assert {(answer.status_code, int(answer.headers["Retry-After"]) > 0) for answer in refused} == {(503, True)}
    assert min(answer.seconds for answer in refused) < TIMEOUT / 2
    time.sleep(int(refused[0].headers["Retry-After"]))
    wait_for_an_answer(running, registry)
