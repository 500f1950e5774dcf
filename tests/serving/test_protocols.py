"""What clients of a champion server may send: pictures without base64, forms, and the Open Inference Protocol."""

import base64
import io
import json
import struct
import subprocess

import mlflow
import numpy as np
import pytest
import requests
from PIL import Image
from rounding import assert_same_probabilities, of_auto
from served import PICTURE, PROBABILITIES, serving
from tiers import needs

KINDS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif", "TIFF": "image/tiff"}
BAD = b"no picture"


@pytest.fixture(scope="module")
def served(trained, tmp_path_factory):
    """A server of `colors`, with its OpenAPI page."""
    with serving(tmp_path_factory.mktemp("protocols"), "colors", "--openapi", "true") as running:
        yield running


@pytest.fixture(scope="module")
def expected(trained):
    """What `predict` says of `PICTURE`."""
    return mlflow.pyfunc.load_model(trained.model_uri).predict(PICTURE).iloc[0]


def assert_expected(row, expected):
    assert (row["Scored Labels"], row["error"]) == (expected["Scored Labels"], "")
    assert_same_probabilities([[row[name] for name in PROBABILITIES]], [expected[PROBABILITIES].to_list()], of_auto())


def post(served, path="/invocations", **arguments):
    return requests.post(served.url + path, timeout=60, **arguments)


def rows_of(answer):
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_a_picture_is_sent_as_it_is(served, expected, tmp_path):
    (tmp_path / "picture.png").write_bytes(PICTURE)
    command = ["curl", "--silent", "--data-binary", f"@{tmp_path}/picture.png", "--header", "Content-Type: image/png"]
    done = subprocess.run([*command, f"{served.url}/invocations"], capture_output=True, check=True)
    (row,) = json.loads(done.stdout)["predictions"]
    assert_expected(row, expected)


@pytest.mark.parametrize("kind", [*KINDS.values(), "application/octet-stream", "image/anything; q=1"])
def test_a_picture_of_any_type(kind, served):
    name = {kind: name for name, kind in KINDS.items()}.get(kind, "PNG")
    file = io.BytesIO()
    Image.new("RGB", (40, 40), (200, 30, 30)).save(file, name)
    (row,) = rows_of(post(served, data=file.getvalue(), headers={"Content-Type": kind}))
    assert row["error"] == ""
    assert row["Scored Labels"]


def test_what_is_no_picture_is_a_row_with_an_error(served):
    for content in (BAD, b"", PICTURE[:200]):
        (row,) = rows_of(post(served, data=content, headers={"Content-Type": "image/png"}))
        assert row["error"]
        assert row["Scored Labels"] is None


def test_several_pictures_in_a_form_keep_their_names(served, expected):
    files = [("image", ("first.png", PICTURE)), ("image", ("grün.png", PICTURE)), ("other", ("bad.png", BAD))]
    rows = rows_of(post(served, files=files))
    assert [row["image"] for row in rows] == ["first.png", "grün.png", "bad.png"]
    for row in rows[:2]:
        assert_expected(row, expected)
    assert rows[2]["error"].startswith("not an image")


def test_params_of_pictures_are_in_the_query_or_in_the_form(served):
    headers = {"Content-Type": "image/png"}
    columns = ["image", "Scored Labels", "Top 1 Label", "Top 1 Probability", "error"]
    answers = [
        post(served, "/invocations?top_k=1", data=PICTURE, headers=headers),
        post(served, files={"image": PICTURE}, data={"top_k": "1"}),
        post(served, "/invocations?tta=flip&explain=false", files={"image": PICTURE}, data={"top_k": "1"}),
        post(served, "/invocations?top_k=1", json={"inputs": [base64.b64encode(PICTURE).decode()]}),
    ]
    assert [list(rows_of(answer)[0]) for answer in answers] == [columns] * 4


@pytest.mark.parametrize(
    ("query", "form", "problem"),
    [
        ("?topk=1", {}, "unknown params; predict takes batch_size"),
        ("?top_k=many", {}, "top_k must be of type int"),
        ("?explain=maybe", {}, "explain must be of type bool"),
        ("?top_k=1", {"top_k": "2"}, "top_k is given twice"),
        ("?top_k=1&top_k=2", {}, "top_k is given twice"),
        ("", {"top_k": "-1"}, "top_k: it must be at least 0"),
    ],
)
def test_params_that_cannot_be_used_are_refused(query, form, problem, served):
    answer = post(served, f"/invocations{query}", files={"image": PICTURE}, data=form)
    assert answer.status_code == 400
    assert problem in answer.json()["message"]


def test_a_form_without_pictures_or_with_too_many(served):
    answer = post(served, files={"top_k": (None, "1")})
    assert (answer.status_code, "the form has no file" in answer.text) == (400, True)
    answer = post(served, files=[("image", ("a", b"x"))] * 257)
    assert (answer.status_code, "more than 256 images in one request" in answer.text) == (400, True)
    answer = post(served, data=b"--B\r\nbroken", headers={"Content-Type": "multipart/form-data; boundary=B"})
    assert answer.status_code == 400


@pytest.fixture(scope="module")
def triton(served):
    http = pytest.importorskip("tritonclient.http", reason=needs("tritonclient", "pip install 'tritonclient[http]'"))
    with http.InferenceServerClient(served.url.removeprefix("http://")) as client:
        yield client, http


def test_tritons_client_finds_the_model(triton, served):
    client, _ = triton
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("colors")
    assert client.is_model_ready("colors", "1")
    assert not client.is_model_ready("colors", "2")
    assert not client.is_model_ready("shapes")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    described = client.get_model_metadata("colors", "1")
    assert described["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [output["name"] for output in described["outputs"]] == ["image", "Scored Labels", *PROBABILITIES, "error"]


@pytest.mark.parametrize("is_binary", [True, False], ids=["binary", "JSON"])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_tritons_client_gets_the_answers_of_predict(is_binary, shape, triton, expected):
    client, http = triton
    contents = [PICTURE, BAD]
    if not is_binary:
        contents = [base64.b64encode(content) for content in contents]
    asked = http.InferInput("image", shape, "BYTES")
    asked.set_data_from_numpy(np.array(contents, dtype=object).reshape(shape), binary_data=is_binary)
    wanted = [
        http.InferRequestedOutput(name, binary_data=is_binary) for name in ("Scored Labels", *PROBABILITIES, "error")
    ]
    answer = client.infer("colors", [asked], request_id="seven", outputs=wanted, model_version="1")
    facts = answer.get_response()
    assert (facts["id"], facts["model_name"], facts["model_version"]) == ("seven", "colors", "1")
    labels, errors = ([as_text(value) for value in answer.as_numpy(name)] for name in ("Scored Labels", "error"))
    assert labels == [expected["Scored Labels"], ""]
    assert [bool(error) for error in errors] == [False, True]
    found = np.array([answer.as_numpy(name).astype(float) for name in PROBABILITIES]).T
    assert_same_probabilities(found[:1], [expected[PROBABILITIES].to_list()], of_auto())
    assert np.isnan(found[1]).all()


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value


def test_tritons_client_gives_params(triton):
    client, http = triton
    asked = http.InferInput("image", [1], "BYTES")
    asked.set_data_from_numpy(np.array([PICTURE], dtype=object))
    answer = client.infer("colors", [asked], parameters={"top_k": 1})
    assert [output["name"] for output in answer.get_response()["outputs"]][2:4] == ["Top 1 Label", "Top 1 Probability"]
    with pytest.raises(Exception, match="unknown params; predict takes"):
        client.infer("colors", [asked], parameters={"topk": 1})


def tensor(**changes):
    encoded = base64.b64encode(PICTURE).decode()
    return {"name": "image", "datatype": "BYTES", "shape": [1], "data": [encoded]} | changes


def infer(served, body, binary=b"", path="/v2/models/colors/infer", **headers):
    return requests.post(served.url + path, data=json.dumps(body).encode() + binary, headers=headers, timeout=60)


WRONG = {
    "no inputs": ({}, "the body is no inference request"),
    "a list": ([], "the body is no inference request"),
    "two inputs": ({"inputs": [tensor(), tensor()]}, "2 inputs; send one"),
    "numbers": ({"inputs": [tensor(datatype="FP32", data=[0.5])]}, "an input must have datatype BYTES"),
    "another shape": ({"inputs": [tensor(shape=[3])]}, "the shape of the input is for 3 images, and it has 1"),
    "a shape of texts": ({"inputs": [tensor(shape=["1"])]}, "shape must be a list of sizes"),
    "a huge shape": ({"inputs": [tensor(shape=[2**31 - 1] * 8)]}, "the shape of the input is for"),
    "elements that are numbers": ({"inputs": [tensor(data=[1])]}, "elements of data must be texts"),
    "no data": ({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1]}]}, "data must be a list"),
    "a binary tensor without bytes": (
        {"inputs": [tensor(parameters={"binary_data_size": 4}) | {"data": []}]},
        "binary_data_size must be",
    ),
    "an unknown output": ({"inputs": [tensor()], "outputs": [{"name": "x"}]}, "an output is wanted that there is not"),
    "classification": (
        {"inputs": [tensor()], "outputs": [{"name": "error", "parameters": {"classification": 2}}]},
        "only binary_data is known here",
    ),
    "a sequence": ({"inputs": [tensor()], "parameters": {"sequence_id": 3}}, "without those of sequences"),
    "an id that is a number": ({"inputs": [tensor()], "id": 3}, "id must be text"),
    "too many images": ({"inputs": [tensor(shape=[257], data=["x"] * 257)]}, "257 images in one request"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_request_that_is_wrong_is_refused_with_the_reason(name, served):
    body, problem = WRONG[name]
    answer = infer(served, body)
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.mark.parametrize(
    ("binary", "size", "problem"),
    [
        (struct.pack("<I", 9) + b"short", 9, "ends within an element"),
        (b"\1\0", 2, "ends within the length of an element"),
        (struct.pack("<I", 0) * 2, 8, "the shape of the input is for 1 images, and it has 2"),
        (struct.pack("<I", 1) + b"x", 4, "binary_data_size must be the number of bytes after the JSON"),
    ],
)
def test_a_binary_tensor_that_is_wrong_is_refused(binary, size, problem, served):
    described = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": size}}
    body = {"inputs": [described]}
    length = str(len(json.dumps(body)))
    answer = infer(served, body, binary, **{"Inference-Header-Content-Length": length})
    assert answer.status_code == 400
    assert problem in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/shapes/infer", "/v2/models/colors/versions/2/infer"])
def test_another_model_or_version_is_not_there(path, served):
    answer = infer(served, {"inputs": [tensor()]}, path=path)
    assert answer.status_code == 404
    assert "no such model or version" in answer.json()["error"]


def test_paths_are_closed_to_all_protocols(served, tmp_path):
    (tmp_path / "picture.png").write_bytes(PICTURE)
    named = [str(tmp_path / "picture.png"), "/etc/passwd", "/etc/nope", "s3://bucket/picture.png"]
    outputs = infer(served, {"inputs": [tensor(shape=[4], data=named)]}).json()["outputs"]
    (errors,) = [output["data"] for output in outputs if output["name"] == "error"]
    rows = rows_of(post(served, files=[("image", ("a.png", name.encode())) for name in named]))
    for found in (errors, [row["error"] for row in rows]):
        assert len(set(found)) == 1
        assert "not an image" in found[0]


def test_the_openapi_page_says_what_is_answered(served):
    jsonschema = pytest.importorskip("jsonschema", reason=needs("jsonschema", "pip install jsonschema"))
    page = requests.get(f"{served.url}/openapi.json", timeout=60).json()
    assert page["info"]["title"] == "colors, version 1"
    for path, methods in page["paths"].items():
        for method in methods:
            url = served.url + path.replace("{name}", "colors")
            assert requests.request(method, url, timeout=60).status_code not in (404, 405), path
    content = page["paths"]["/invocations"]["post"]["requestBody"]["content"]
    for kind in ("image/*", "application/octet-stream"):
        assert kind in content
    answers = page["paths"]["/invocations"]["post"]["responses"]
    for answer in (post(served, data=PICTURE, headers={"Content-Type": "image/png"}), post(served, json={})):
        schema = answers[str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), schema | {"components": page["components"]})
