"""A model served over HTTP by real `mlflow models serve` processes."""

import base64
import gzip
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from abuse import JSON, attack, json_requests, memory_of, other_requests
from helpers import COLORS, free_port, server
from proxy import faulty, half
from rounding import assert_same_probabilities, assert_same_rows, of_auto

from mlflow_resnet.client import score_images
from mlflow_resnet.errors import ScoringServerError

REFUSED = "not an image: send the bytes of an image file, base64-encoded; paths and URLs are not opened here"
PROBABILITIES = [f"Scored Probabilities_{name}" for name in COLORS]
PARQUET = "application/vnd.apache.parquet"
CSV_HEADERS = {"Content-Type": "text/csv"}


@pytest.fixture(scope="module")
def offline(trained):
    return mlflow.pyfunc.load_model(trained.model_uri)


@pytest.fixture(scope="module")
def files(images):
    return sorted((images / "val").rglob("*.jpg"))


@pytest.fixture(scope="module")
def opened(tmp_path_factory, files):
    """A folder that a server opens, with one image, a folder in it, and links that lead inside and outside."""
    root = tmp_path_factory.mktemp("around") / "opened"
    root.mkdir()
    shutil.copy(files[0], root / "inside.jpg")
    shutil.copy(files[1], root.parent / "beside.jpg")
    shutil.copytree(files[1].parent, root.parent / "opened-too")
    (root / "link.jpg").symlink_to("inside.jpg")
    (root / "out.jpg").symlink_to(root.parent / "beside.jpg")
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe.jpg")
    return root


@pytest.fixture(scope="module")
def small(trained, tmp_path_factory, opened):
    """The URL of a server that takes three images per request and opens one folder."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        "MLFLOW_PYFUNC_INFERENCE_CONFIG": '{"max_images_per_request": 3}',
        "MLFLOW_RESNET_ALLOWED_ROOT": str(opened),
    }
    with server(serve(trained.model_uri, port), f"{url}/ping", tmp_path_factory.mktemp("small"), **environment):
        yield url


def serve(model_uri, port):
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model_uri)]
    return [*command, "--port", str(port), "--env-manager", "local"]


def post(url, body=None, **arguments):
    return requests.post(f"{url}/invocations", json=body, timeout=60, **arguments)


def refuse_constant(name):
    raise ValueError(f"{name} is not JSON")


def rows(answer):
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_constant=refuse_constant)["predictions"]


def encoded(file, prefix=""):
    return prefix + base64.b64encode(file.read_bytes()).decode()


def parquet(column, **others):
    file = io.BytesIO()
    pd.DataFrame({**others, "image": column}).to_parquet(file)
    return {"data": file.getvalue(), "headers": {"Content-Type": PARQUET}}


BODIES = {
    "dataframe_split": lambda values: {"dataframe_split": {"columns": ["image"], "data": [[v] for v in values]}},
    "dataframe_records": lambda values: {"dataframe_records": [{"picture": value} for value in values]},
    "inputs": lambda values: {"inputs": values},
    "instances": lambda values: {"instances": values},
    "named instances": lambda values: {"instances": [{"image": value} for value in values]},
}


def test_ping_says_that_the_model_is_there(served):
    assert requests.get(f"{served}/ping", timeout=5).status_code == 200


@pytest.mark.parametrize("prefix", ["", "data:image/jpeg;base64,"])
@pytest.mark.parametrize("form", BODIES)
def test_every_body_is_answered_as_offline(form, prefix, served, offline, files):
    answered = rows(post(served, BODIES[form]([encoded(file, prefix) for file in files])))
    assert_as_offline(answered, offline, files)


WITH_AN_ID_FIRST = {
    "split": lambda v: {"json": {"dataframe_split": {"columns": ["id", "image"], "data": [[7, each] for each in v]}}},
    "records": lambda v: {"json": {"dataframe_records": [{"id": "7", "image": each} for each in v]}},
    "instances": lambda v: {"json": {"instances": [{"id": 7, "image": each} for each in v]}},
    "inputs": lambda v: {"json": {"inputs": [{"id": "7", "Image": each} for each in v]}},
    "CSV": lambda v: {"data": pd.DataFrame({"id": "7", "image": v}).to_csv(index=False), "headers": CSV_HEADERS},
    "CSV with an index": lambda v: {"data": pd.DataFrame({"photo": v}).to_csv(), "headers": CSV_HEADERS},
    "Parquet": lambda v: parquet(v, label="x"),
}


@pytest.mark.parametrize("form", WITH_AN_ID_FIRST)
def test_the_image_is_found_behind_an_id(form, served, offline, files):
    answer = requests.post(
        f"{served}/invocations", timeout=60, **WITH_AN_ID_FIRST[form]([encoded(each) for each in files])
    )
    assert_as_offline(rows(answer), offline, files)


def test_columns_none_of_which_is_named_so_are_refused_and_not_repeated(served):
    answer = post(served, {"dataframe_records": [{"SECRET": "x", "other": "y"}]})
    assert answer.status_code == 400
    assert answer.json()["message"] == "the input cannot be used: of several columns, one must be named image"


def test_raw_bytes_in_parquet_are_answered_as_offline(served, offline, files):
    assert_as_offline(rows(post(served, **parquet([file.read_bytes() for file in files]))), offline, files)


def assert_as_offline(answered, offline, files):
    expected = offline.predict([file.read_bytes() for file in files])
    got = pd.DataFrame(answered)
    assert list(got.columns) == list(expected.columns)
    assert_same_probabilities(got[PROBABILITIES], expected[PROBABILITIES], of_auto())
    for column in ("image", "Scored Labels", "error"):
        assert list(got[column]) == list(expected[column])


def test_a_bad_image_is_a_row_and_the_answer_is_strict_json(served, files):
    half = base64.b64encode(files[0].read_bytes()[:300]).decode()
    answered = rows(post(served, {"inputs": [encoded(files[0]), "no image", half, encoded(files[4])]}))
    assert [row["Scored Labels"] for row in answered] == ["007", None, None, "blue sky"]
    assert [row[PROBABILITIES[0]] is None for row in answered] == [False, True, True, False]
    assert [row["error"] for row in answered[::3]] == ["", ""]
    assert answered[1]["error"] == REFUSED
    assert "truncated or damaged" in answered[2]["error"]


def test_params_are_taken_from_json(served, files):
    body = {"inputs": [encoded(files[0]), "no image"], "params": {"top_k": 1, "batch_size": 1}}
    answered = rows(post(served, body))
    assert answered[0].keys() == {"image", "Scored Labels", "Top 1 Label", "Top 1 Probability", "error"}
    assert [row["Top 1 Label"] for row in answered] == ["007", None]


def test_paths_and_urls_are_refused_in_one_sentence_and_not_looked_at(served, files, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/x.jpg"
        named = ["/etc/passwd", "/nope", str(files[0]), str(tmp_path), str(tmp_path / "pipe"), "/dev/zero", url]
        named += [f"file://{files[0]}", "s3://bucket/x.jpg", "../x.jpg", "~/x.jpg", "x" * 100_000, "a\0b", ""]
        for form in ("inputs", "dataframe_split"):
            assert {row["error"] for row in rows(post(served, BODIES[form](named)))} == {REFUSED}
        with pytest.raises(TimeoutError):
            listener.accept()


def test_one_folder_can_be_opened_and_nothing_beside_it(small, opened):
    for name in ("inside.jpg", "link.jpg", "folder/../inside.jpg"):
        assert rows(post(small, {"inputs": [f"{opened}/{name}"]}))[0]["Scored Labels"] == "007", name
    outside = ["../beside.jpg", "../opened-too/01.jpg", "out.jpg", "nope.jpg", "folder", "pipe.jpg", ""]
    paths = [f"{opened}/{name}" for name in outside] + [
        f"{opened}-too/01.jpg",
        "/etc/passwd",
        f"file://{opened}/inside.jpg",
    ]
    for path in paths:
        assert rows(post(small, {"inputs": [path]}))[0]["error"] == REFUSED, path


def test_as_many_images_as_allowed_and_one_more(small, files):
    for form in ("inputs", "dataframe_split"):
        assert len(rows(post(small, BODIES[form]([encoded(files[0])] * 3)))) == 3
        answer = post(small, BODIES[form]([encoded(files[0])] * 4))
        assert answer.status_code == 400
        sentence = "4 images in one request, over the limit of 3; send several requests"
        assert sentence in answer.json()["message"]
    assert len(rows(post(small, {"inputs": [encoded(files[0])]}))) == 1


@pytest.mark.slow
def test_an_image_over_the_cap_is_a_row(served, files):
    content = files[0].read_bytes()
    too_large = content + bytes(64 * 2**20)
    answered = rows(post(served, **parquet([too_large, content])))
    assert [row["error"] for row in answered] == ["over the limit of 64 MiB for one image", ""]
    answered = rows(post(served, {"inputs": [base64.b64encode(too_large).decode(), encoded(files[0])]}))
    assert [row["error"] for row in answered] == ["over the limit of 64 MiB for one image", ""]


def test_concurrent_requests_each_get_the_answer_of_their_own_images(served, offline, files):
    together = threading.Barrier(16)

    def ask(number):
        own = [files[(number + i) % len(files)] for i in range(1 + number % 3)]
        together.wait(30)
        return [(own, rows(post(served, {"inputs": [encoded(file) for file in own]}))) for _ in range(3)]

    with ThreadPoolExecutor(16) as pool:
        answers = [answer for answered in pool.map(ask, range(16)) for answer in answered]
    assert len(answers) == 48
    for own, answered in answers:
        expected = offline.predict([str(file) for file in own])[PROBABILITIES]
        assert_same_probabilities(pd.DataFrame(answered)[PROBABILITIES], expected, of_auto())


def test_300_requests_at_once_each_get_the_label_of_their_own_image(served, files):
    together = threading.Barrier(300)

    def ask(number):
        file = files[number % len(files)]
        together.wait(60)
        return file.parent.name, rows(post(served, {"inputs": [encoded(file)]}))

    with ThreadPoolExecutor(300) as pool:
        answers = list(pool.map(ask, range(300)))
    assert [row["Scored Labels"] for _, (row,) in answers] == [label for label, _ in answers]


def test_files_are_scored_by_the_client_as_offline(served, offline, files, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(files[0].read_bytes()[:400])
    paths = [*map(str, files[:5]), str(tmp_path / "missing.jpg"), str(tmp_path / "broken.jpg"), *map(str, files[5:])]
    expected = offline.predict(paths)
    found = score_images(served, paths, batch_size=3)
    assert_same_rows(found, expected, of_auto())
    few = score_images(f"{served}/", [files[0], tmp_path / "missing.jpg"], top_k=2, requests_at_once=1)
    assert list(few) == ["image", "Scored Labels", *ranks(2), "error"]
    assert list(few["error"]) == ["", expected["error"][5]]
    assert list(score_images(served, [tmp_path / "missing.jpg"])["Scored Labels"]) == [None]
    assert score_images(served, []).empty


def ranks(count):
    return [f"Top {rank} {what}" for rank in range(1, count + 1) for what in ("Label", "Probability")]


def test_the_client_asks_a_busy_server_again_but_not_for_ever(served, files, monkeypatch):
    with faulty(served, half(1)) as busy:
        frame = score_images(busy.url, files, batch_size=2)
        assert list(frame["Scored Labels"]) == [file.parent.name for file in files]
        assert {fault for *_, fault in busy.requests} == {"503", ""}
    monkeypatch.setattr("mlflow_resnet.client.RETRIES", 2)
    with faulty(served, lambda method, path: "503") as busy:
        with pytest.raises(ScoringServerError, match="/invocations: answered 503: "):
            score_images(busy.url, files[:1])
        assert len(busy.requests) == 3


def test_what_the_client_cannot_do_is_told_in_one_line(served, files):
    with pytest.raises(ScoringServerError, match="answered 400: 257 images in one request, over the limit") as refused:
        score_images(served, [files[0]] * 257, batch_size=300)
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 300
    with pytest.raises(ScoringServerError, match="nobody answers. Start the server") as away:
        score_images(f"http://127.0.0.1:{free_port()}", files[:1])
    assert "\n" not in away.value.message


def bomb():
    """20,000 rows of 100 kB in 260 bytes, which would take 2 GB."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, dtype=np.int32)), pa.array(["a" * 100_000]))
    file = io.BytesIO()
    pq.write_table(pa.table({"0": column}), file, compression="zstd", store_schema=False)
    return file.getvalue()


BAD_REQUESTS = {
    "negative top_k": {"json": {"inputs": ["x"], "params": {"top_k": -1}}},
    "top_k as text": {"json": {"inputs": ["x"], "params": {"top_k": "x"}}},
    "negative batch_size": {"json": {"dataframe_split": {"data": [["x"]]}, "params": {"batch_size": -5}}},
    "no images": {"json": {"inputs": []}},
    "no field": {"json": {}},
    "two fields": {"json": {"inputs": ["x"], "instances": ["x"]}},
    "pixels": {"json": {"instances": [[[1, 2], [3, 4]]]}},
    "not JSON": {"data": "xx", "headers": {"Content-Type": "application/json"}},
    "unknown content": {"data": b"xx", "headers": {"Content-Type": "application/octet-stream"}},
    "257 images": {"json": {"inputs": ["x"] * 257}},
    "a Parquet bomb": {"data": bomb(), "headers": {"Content-Type": PARQUET}},
    "deep JSON": {"data": b'{"inputs":' + b"[" * 1000 + b"]" * 1000 + b"}", "headers": {"Content-Type": JSON}},
    "a long number": {"data": b'{"inputs":[' + b"1" * 5000 + b"]}", "headers": {"Content-Type": JSON}},
    "many values": {"data": b'{"inputs":[' + b"{}," * 10**6 + b"1]}", "headers": {"Content-Type": JSON}},
    "gzip": {"data": gzip.compress(b"SECRET"), "headers": {"Content-Type": JSON}},
    "no content type": {"data": b"{}", "headers": {"Content-Type": ""}},
    "bad Parquet": {"data": b"xx", "headers": {"Content-Type": PARQUET}},
}


@pytest.mark.parametrize("arguments", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_a_bad_request_is_a_sentence_without_trace_or_path_and_the_server_goes_on(arguments, served, files):
    memory = memory_of(int(served.rpartition(":")[2]))
    answer = requests.post(f"{served}/invocations", timeout=60, **arguments)
    assert 400 <= answer.status_code < 500
    assert len(answer.content) < 600
    assert memory_of(int(served.rpartition(":")[2])) - memory < 200 * 2**20
    for secret in ("Traceback", "stack_trace", 'File "', sys.prefix, os.getcwd()):
        assert secret not in answer.text
    assert rows(post(served, {"inputs": [encoded(files[0])]}))[0]["Scored Labels"] == "007"


def test_unknown_params_are_refused_but_not_repeated(served):
    answer = post(served, {"inputs": ["x" * 10**6], "params": {"topk": 3, "top_k": 1}})
    assert answer.status_code == 400
    known = "batch_size, explain, min_confidence, resolution, top_k, tta"
    assert answer.json()["message"] == f"unknown params; predict takes {known}"


def test_larger_pictures_and_second_looks_make_a_request_no_longer(small, files):
    image = encoded(files[0])
    for params, most in (({"tta": "flip"}, 1), ({"resolution": 48}, 1), ({"resolution": 32}, 3)):
        assert len(rows(post(small, {"inputs": [image] * most, "params": params}))) == most
        answer = post(small, {"inputs": [image] * (most + 1), "params": params})
        assert f"{most + 1} images in one request, over the limit of {most}" in answer.json()["message"]


@pytest.mark.parametrize(
    "examples",
    [pytest.param(25, id="few"), pytest.param(250, id="many", marks=[pytest.mark.slow, pytest.mark.thorough])],
)
@pytest.mark.parametrize("kind", [json_requests, other_requests])
def test_no_request_does_harm(kind, examples, served, files, tmp_path):
    def still_answers():
        assert rows(post(served, {"inputs": [encoded(files[0])]}))[0]["Scored Labels"] == "007"

    attack(served, kind, examples, tmp_path, still_answers)


@pytest.mark.slow
def test_a_tampered_model_never_becomes_healthy(trained, tmp_path):
    model = mlflow.artifacts.download_artifacts(trained.model_uri, dst_path=tmp_path)
    with open(f"{model}/data/model.safetensors", "r+b") as weights:
        weights.seek(-4, os.SEEK_END)
        weights.write(b"\1\2\3\4")
    port = free_port()
    result = subprocess.run(serve(model, port), cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert result.returncode != 0
    assert "TamperedWeightsError" in result.stderr
    assert "the model was saved with" in result.stderr
    with pytest.raises(requests.ConnectionError):
        requests.get(f"http://127.0.0.1:{port}/ping", timeout=5)


@pytest.mark.slow
def test_models_predict_scores_a_json_file(trained, offline, files, tmp_path):
    (tmp_path / "input.json").write_text(json.dumps({"inputs": [encoded(file) for file in files[::4]]}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--model-uri", trained.model_uri]
    command += ["--input-path", "input.json", "--output-path", "output.json", "--env-manager", "local"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert_as_offline(json.loads((tmp_path / "output.json").read_text())["predictions"], offline, files[::4])
