"""A real `mlflow-resnet serve` under attack; tests/test_serve.py has the same for `mlflow models serve`."""

import gzip
import io
import json
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from abuse import (
    CSV,
    JSON,
    NOT_PICTURES,
    PARQUET,
    attack,
    form_requests,
    inference_requests,
    json_requests,
    memory_of,
    other_requests,
    text_of,
)
from hostile import IMAGES
from PIL import Image
from rounding import assert_same_probabilities, of_auto
from served import PICTURE, PROBABILITIES, columns_of, list_ways, serving

REFUSED = "not an image: send the bytes of an image file, base64-encoded; paths and URLs are not opened here"


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
@pytest.mark.parametrize("kind", [json_requests, other_requests, form_requests])
def test_no_request_does_harm(kind, examples, attacked, tmp_path):
    attack(attacked[0], kind, examples, tmp_path, attacked[1])


@pytest.mark.parametrize("examples", EXAMPLES)
def test_no_inference_request_does_harm(examples, attacked, tmp_path):
    attack(attacked[0], inference_requests, examples, tmp_path, attacked[1], INFERENCE_PATH)


INFERENCE_PATH = "/v2/models/colors/infer"


def post(url, content, content_type=JSON, path="/invocations"):
    return requests.post(url + path, data=content, headers={"Content-Type": content_type}, timeout=60)


TEXT = "SECRET-INPUT-123321"
MARK = TEXT.encode()


def body_with(params):
    return json.dumps({"inputs": [TEXT], "params": params})


def parquet(cells):
    file = io.BytesIO()
    pd.DataFrame({"image": cells}).to_parquet(file)
    return file.getvalue()


REFUSALS = {
    "unreadable Parquet": (b"PAR1" + MARK, PARQUET, "no Parquet file, or a damaged one"),
    "Parquet of 257 rows": (parquet([MARK] * 257), PARQUET, "257 images in one request, over the limit of 256"),
    "unreadable CSV": (b'"' + MARK, CSV, "the body cannot be read as CSV"),
    "CSV that is gzip": (gzip.compress(MARK), CSV, "the CSV is not in UTF-8"),
    "no JSON": (MARK * 1000, JSON, "the body is not valid JSON: line 1 column 1 (char 0)"),
    "JSON that is gzip": (gzip.compress(MARK), JSON, "the JSON is not in UTF-8"),
    "JSON in UTF-16": (json.dumps({"inputs": [TEXT]}).encode("utf-16"), JSON, "the JSON is not in UTF-8"),
    "JSON that is a list": (json.dumps([TEXT]), JSON, "the JSON must be an object with exactly one of inputs"),
    "unknown fields": (json.dumps({TEXT: 1}), JSON, "the JSON must be an object with exactly one of inputs"),
    "another schema": (json.dumps({"messages": [1], "x": {"a": TEXT}}), JSON, "exactly one of inputs, instances"),
    "columns": (json.dumps({"inputs": {TEXT: ["x"], "b": ["x"]}}), JSON, "the input cannot be used"),
    "records with other columns": (
        json.dumps({"dataframe_records": [{TEXT: "x", "b": "x"}]}),
        JSON,
        "the input cannot be used: of several columns, one must be named image",
    ),
    "rows without names": (json.dumps({"inputs": [[TEXT, "b"]]}), JSON, "rows of several values without names"),
    "numbers as images": (parquet([123321]), PARQUET, "the input cannot be used: its column of images holds numbers"),
    "unknown params": (body_with({TEXT: 3}), JSON, "unknown params; predict takes batch_size, explain"),
    "params of another type": (body_with({"top_k": TEXT}), JSON, "top_k must be of type int"),
    "a list for a param": (body_with({"top_k": [TEXT]}), JSON, "top_k must be of type int"),
    "a param that is no choice": (body_with({"tta": TEXT}), JSON, "tta: choose one of empty, flip"),
    "a negative param": (body_with({"top_k": -123_321}), JSON, "top_k: it must be at least 0"),
    "no params": (body_with([TEXT]), JSON, "params must be an object"),
    "too many images": (json.dumps({"inputs": [TEXT] * 257}), JSON, "257 images in one request, over the limit"),
    "nested 1,000 deep": (b'{"inputs":' + b"[" * 1000 + b"]" * 1000 + b"}", JSON, "nested more than 16 deep"),
    "nested 100,000 deep": (b'{"inputs":' + b"[" * 100_000 + b"]" * 100_000 + b"}", JSON, "more than 10000 values"),
    "a number of 5,000 digits": (b'{"inputs":[' + b"1" * 5000 + b"]}", JSON, "a number of more than 400 digits"),
    "content type": (b"", TEXT, "the Content-Type is not known here; send one of application/json"),
    "no content type": (b"{}", None, "the Content-Type is not known here; send one of application/json"),
    "content type with parameters": (b"{}", f"{JSON}; {TEXT}=1", "only charset=utf-8 is known here"),
    "another charset": (b"{}", f"{JSON}; charset={TEXT}", "only charset=utf-8 is known here"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_says_why_and_repeats_no_input(name, attacked):
    content, content_type, reason = REFUSALS[name]
    answer = post(attacked[0], content, content_type)
    assert 400 <= answer.status_code < 500
    assert reason in answer.text
    assert len(answer.content) < 500
    for secret in ("stack_trace", TEXT, TEXT.lower(), "123321", "\\x1f\\x8b"):
        assert secret not in answer.text
    assert answer.headers["X-Model-Name"] == "colors"


@pytest.mark.parametrize("form", [{"dataframe_records": [{"id": "7", "image": text_of(PICTURE)}]}, "id,image"])
def test_the_image_is_found_behind_an_id(form, attacked):
    content, kind = (json.dumps(form), JSON) if isinstance(form, dict) else (f"{form}\n7,{text_of(PICTURE)}\n", CSV)
    assert [row["error"] for row in post(attacked[0], content, kind).json()["predictions"]] == [""]


def test_a_lone_surrogate_costs_its_row_and_no_other(attacked):
    for form in ({"inputs": [r"\ud800"]}, {"dataframe_split": {"columns": ["a"], "data": [[r"\ud800"]]}}):
        content = json.dumps(form).replace(r"\\ud800", rf'\ud800x\udfff", "{text_of(PICTURE)}')
        if "data" in form.get("dataframe_split", {}):
            content = content.replace('", "', '"], ["')
        answer = post(attacked[0], content)
        assert [row["error"] for row in answer.json()["predictions"]] == [REFUSED, ""]


@pytest.mark.parametrize(
    "path", ["docs", "redoc", "openapi.json", "docs/oauth2-redirect", "ping/", "nothing", "v2/models", "%2e"]
)
def test_nothing_is_open_but_what_is_needed(path, attacked):
    answer = requests.get(f"{attacked[0]}/{path}", timeout=60, allow_redirects=False)
    assert answer.status_code == 404
    assert len(answer.content) < 100


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_refused(method, attacked):
    assert requests.request(method, f"{attacked[0]}/invocations", timeout=60).status_code == 405
    if method != "GET":
        assert requests.request(method, f"{attacked[0]}/ping", timeout=60).status_code == 405


def repeated(rows, size):
    """A Parquet file of a few hundred bytes with one value in every row."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["a" * size]))
    file = io.BytesIO()
    pq.write_table(pa.table({"0": column}), file, compression="zstd", store_schema=False)
    return file.getvalue()


FORM = "multipart/form-data; boundary=x"


def form_of(*contents):
    parts = [b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + each for each in contents]
    return b"\r\n".join([*parts, b"--x--\r\n"])


def tensor_of(data):
    return b'{"inputs":[{"name":"image","datatype":"BYTES","shape":[1],"data":' + data + b"}]}"


HEAVY = {  # what each took before it was looked at, on a server that was given it once
    "20,000 rows of 100 kB": (lambda: repeated(20_000, 100_000), PARQUET, 400),  # 3 GB
    "255 rows of 10 MB": (lambda: repeated(255, 10_000_000), PARQUET, 400),  # 5.5 GB, 54 s
    "30 MiB of lists": (lambda: b'{"inputs":["a"],"z":[' + b"[]," * (10 * 2**20) + b"[]]}", JSON, 400),
    "30 MiB of objects": (lambda: b'{"inputs":[' + b'{"a":0},' * (15 * 2**18) + b"{}]}", JSON, 400),  # 4.8 GB
    "127 MiB of lists": (lambda: b'{"inputs":[' + b"[]," * (42 * 2**20) + b"[]]}", JSON, 413),  # 9 GB
    "wide and long CSV": (lambda: b"a," * 5000 + b"\n" + b"1\n" * 10**6, CSV, 400),
    "60 MiB of CSV": (lambda: b"," * (60 * 2**20), CSV, 413),
    "a form of 300,000 files": (lambda: form_of(*[b""] * 300_000), FORM, 400),
    "a form of 30 MiB of what may begin a boundary": (lambda: form_of(b"\r" * (30 * 2**20)), FORM, 200),
    "a form of one part that is all head": (lambda: form_of()[:-7] + b"a: b\r\n" * (5 * 2**20), FORM, 400),
    "a tensor of 30 MiB of lists": (
        lambda: tensor_of(b"[" + b"[]," * (10 * 2**20) + b"[]]"),
        JSON,
        400,
        INFERENCE_PATH,
    ),
    "a tensor of 127 MiB": (lambda: tensor_of(b'["' + b"A" * (127 * 2**20) + b'"]'), JSON, 413, INFERENCE_PATH),
}


@pytest.mark.parametrize("name", HEAVY)
def test_a_body_that_is_heavy_to_parse_takes_no_memory_and_holds_up_nobody(name, attacked):
    make, content_type, status, *path = HEAVY[name]
    content, port = make(), int(attacked[0].rpartition(":")[2])
    before, pings = memory_of(port), []
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(post, attacked[0], content, content_type, *path) for _ in range(2)]
        while not all(answer.done() for answer in answers):
            pings.append(requests.get(f"{attacked[0]}/ping", timeout=10).status_code)
    assert [answer.result().status_code for answer in answers] == [status] * 2
    assert set(pings) <= {200}
    assert memory_of(port) - before < 300 * 2**20  # bodies of 30 MiB, received, whole, and without their strings
    attacked[1]()


@pytest.mark.parametrize("kind", IMAGES)
def test_a_hostile_picture_is_a_row_whichever_way_it_comes(kind, attacked):
    make, problem = IMAGES[kind]
    content, port = make(), int(attacked[0].rpartition(":")[2])
    before = memory_of(port)
    for path, arguments in list_ways(content, "colors"):
        errors = columns_of(requests.post(attacked[0] + path, timeout=20, **arguments))["error"]
        assert len(errors) == 1
        assert problem in errors[0]
    assert memory_of(port) - before < 100 * 2**20
    attacked[1]()


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


def test_a_picture_that_takes_too_much_memory_is_a_row(attacked):
    file = io.BytesIO()
    Image.new("RGB", (6000, 6000)).save(file, "WEBP", method=0)
    (row,) = post(attacked[0], file.getvalue(), "image/webp").json()["predictions"]
    problem = "6000x6000 takes 755 MiB to decode as WEBP, over the limit of 640 MiB; send a smaller one"
    assert row["error"] == problem


def test_what_is_no_picture_is_not_decoded_whatever_it_is_called(attacked):
    uris = [f"data:image/jpeg;base64,{text_of(content)}" for content in NOT_PICTURES.values() if content]
    plain = [text_of(content) for content in NOT_PICTURES.values()]
    answers = [post(attacked[0], json.dumps({"inputs": cells})).json()["predictions"] for cells in (uris, plain)]
    assert {row["error"].partition(" (")[0] for row in answers[0]} == {"not an image of a supported format"}
    assert {row["error"] for row in answers[1]} == {REFUSED}
