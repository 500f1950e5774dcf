"""A real `mlflow-resnet serve` under attack; tests/test_serve.py has the same for `mlflow models serve`."""

import io
import json

import mlflow
import pytest
import requests
from abuse import CSV, JSON, NOT_PICTURES, PARQUET, attack, json_requests, other_requests, text_of
from PIL import Image
from rounding import assert_same_probabilities, of_auto
from served import PICTURE, PROBABILITIES, serving

REFUSED = "not an image: send the bytes of an image file, base64-encoded; paths and URLs are not opened here"
MOST_TOLD = 4000  # bytes: a reason has 500 characters, of up to 6 bytes in JSON


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    """The URL of a server, and what asks it a valid question and checks the answer."""
    offline = mlflow.pyfunc.load_model(trained.model_uri).predict(PICTURE)
    with serving(tmp_path_factory.mktemp("attacked"), "colors") as running:

        def still_answers():
            (row,) = running.ask().json()["predictions"]
            assert_same_probabilities([row[name] for name in PROBABILITIES], offline.loc[0, PROBABILITIES], of_auto())

        yield running.url, still_answers


EXAMPLES = [pytest.param(40, id="few"), pytest.param(400, id="many", marks=pytest.mark.slow)]


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("kind", [json_requests, other_requests])
def test_no_request_does_harm(kind, examples, attacked, tmp_path):
    attack(attacked[0], kind, examples, tmp_path, attacked[1], MOST_TOLD)


def post(url, content, content_type=JSON):
    return requests.post(f"{url}/invocations", data=content, headers={"Content-Type": content_type}, timeout=60)


LONG = "x" * 10**6
REFUSALS = {
    "unreadable Parquet": (b"PAR1", PARQUET, "Parquet file size is 4 bytes"),
    "unreadable CSV": (b'"', CSV, "Error tokenizing data"),
    "no JSON": (LONG, JSON, "Expecting value: line 1 column 1 (char 0)"),
    "another schema": (json.dumps({"messages": [1], "x": {"a": LONG}}), JSON, "a column-based signature"),
    "unknown params": (json.dumps({"inputs": [LONG], "params": {"topk": 3}}), JSON, "unknown params 'topk'"),
    "params of another type": (json.dumps({"inputs": [LONG], "params": {"top_k": "x"}}), JSON, "top_k"),
    "no params": (json.dumps({"inputs": [LONG], "params": [1]}), JSON, "Parameters must be a dictionary"),
    "too many images": (json.dumps({"inputs": [LONG[:1000]] * 257}), JSON, "257 images in one request"),
    "content type": (b"", LONG[:5000], "This predictor only supports"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_why_and_repeats_no_input(name, attacked):
    content, content_type, reason = REFUSALS[name]
    answer = post(attacked[0], content, content_type)
    assert 400 <= answer.status_code < 500
    assert reason in answer.text
    assert len(answer.content) < 1000
    assert "stack_trace" not in answer.text


MLFLOWS_OWN = {
    "no content type": (b"{}", {}),
    "nested 100,000 deep": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", {"Content-Type": JSON}),
    "a number of 5,000 digits": (b'{"inputs":[' + b"1" * 5000 + b"]}", {"Content-Type": JSON}),
}


@pytest.mark.parametrize("name", MLFLOWS_OWN)
def test_where_mlflows_server_fails_itself_it_tells_nothing_and_goes_on(name, attacked):
    url, still_answers = attacked
    content, headers = MLFLOWS_OWN[name]
    answer = requests.post(f"{url}/invocations", data=content, headers=headers, timeout=60)
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")  # before our code sees the request
    still_answers()


def one_bit_png(width, height):
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def test_as_many_pixels_as_allowed_and_one_more(attacked):
    sizes = [(7999, 8001), (8000, 8000), (2_000_033, 32), (12_000, 12_000)]
    contents = [one_bit_png(width, height) for width, height in sizes]
    assert len(contents[3]) < 20_000
    answer = post(attacked[0], json.dumps({"inputs": list(map(text_of, contents))}))
    errors = [row["error"] for row in answer.json()["predictions"]]
    assert errors == ["", "", "2000033x32 is 65 megapixels, over the limit of 64", *errors[3:]]
    assert errors[3] == "12000x12000 is 144 megapixels, over the limit of 64"


def test_what_is_no_picture_is_not_decoded_whatever_it_is_called(attacked):
    uris = [f"data:image/jpeg;base64,{text_of(content)}" for content in NOT_PICTURES.values() if content]
    plain = [text_of(content) for content in NOT_PICTURES.values()]
    answers = [post(attacked[0], json.dumps({"inputs": cells})).json()["predictions"] for cells in (uris, plain)]
    assert {row["error"].partition(" (")[0] for row in answers[0]} == {"not an image of a supported format"}
    assert {row["error"] for row in answers[1]} == {REFUSED}
