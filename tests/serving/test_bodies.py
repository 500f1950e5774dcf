"""Bodies that cost more than they weigh, before anything parses them."""

import contextlib
import io
import json

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlflow_resnet.errors import RefusedBodyError
from mlflow_resnet.scoring.over_http.bodies import (
    CSV,
    JSON,
    MAX_JSON_DEPTH,
    MAX_JSON_DIGITS,
    MAX_VALUES,
    PARQUET,
    check_body,
    find_content_type,
    without_words_of_others,
)

MIB = 2**20
MAX_BYTES = 16 * MIB


def checked(kind, content, max_images=256):
    return check_body(kind, content if isinstance(content, bytes) else content.encode(), MAX_BYTES, max_images)


def refusal(kind, content, **arguments):
    with pytest.raises(RefusedBodyError) as refused:
        checked(kind, content, **arguments)
    assert refused.value.http_status == 400
    assert len(refused.value.message) < 200
    return refused.value.message


def nested(depth):
    return "[" * depth + "]" * depth


HONEST = {
    "a list": {"inputs": ["aGVsbG8="] * 256},
    "a table": {"dataframe_split": {"columns": ["image"], "data": [["aGVsbG8="]] * 256}, "params": {"top_k": 3}},
    "records": {"dataframe_records": [{"image": "aGVsbG8="}] * 256},
    "all kinds of values": {"a": [1, -2.5e300, True, None, "", [], {}, '\u00e9\U0001f600\n\t"\\/']},
    "brackets in a text": {"inputs": ['[{"' * 10_000 + "1" * 10_000]},
    "backslashes at the ends of texts": {"\\": "\\\\", 'a\\"': ['\\"[', "\\"]},
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("is_ascii", [True, False])
def test_an_honest_json_text_stays_as_it_is(name, is_ascii):
    content = json.dumps(HONEST[name], ensure_ascii=is_ascii, indent=1).encode()
    assert checked(JSON, content) == (content, len(content))


def test_as_many_values_as_allowed_and_more():
    for heavy in ("0", "[]", "{}", '""'):
        checked(JSON, f'{{"inputs":[{",".join([heavy] * (MAX_VALUES // 2 - 2))}]}}')
        assert f"more than {MAX_VALUES} values" in refusal(JSON, f'{{"inputs":[{",".join([heavy] * MAX_VALUES)}]}}')
    assert "values" in refusal(JSON, '{"inputs":["a"],"zzz":[' + ",".join(["[]"] * MAX_VALUES) + "]}")
    assert "values" in refusal(JSON, '{"inputs":[' + ",".join(['{"a":0}'] * MAX_VALUES) + "]}")
    assert "values" in refusal(JSON, '"' * 10**6)
    assert "not valid JSON" in refusal(JSON, "]" * 10**6)


def test_as_deep_as_allowed_and_deeper():
    checked(JSON, nested(MAX_JSON_DEPTH))
    for depth in (MAX_JSON_DEPTH + 1, 1000, 4000):
        assert refusal(JSON, nested(depth)) == f"the JSON is nested more than {MAX_JSON_DEPTH} deep"
        assert "deep" in refusal(JSON, '{"inputs":["\\\\",' + nested(depth) + ',"\\""]}')
        assert "deep" in refusal(JSON, '{"a":' * depth + "1" + "}" * depth)


def test_numbers_as_long_as_allowed_and_longer():
    checked(JSON, f"[{'1' * MAX_JSON_DIGITS}]")
    for number in ("1" * 5000, "-" + "9" * 10**6, "1e" + "1" * 5000, "0." + "1" * 5000):
        assert (
            refusal(JSON, f'{{"inputs":[{number}]}}') == f"the JSON has a number of more than {MAX_JSON_DIGITS} digits"
        )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-32-be", "latin-1"])
def test_json_in_another_encoding_hides_nothing(encoding):
    content = json.dumps({"inputs": ["\u00e9", [[]] * 10]}, ensure_ascii=False).encode(encoding)
    assert refusal(JSON, content) == "the JSON is not in UTF-8"


SURROGATES = {
    r'"\ud800"': "\ufffd",
    r'"\udc00"': "\ufffd",
    r'"\ud83d\ude00"': "\U0001f600",
    r'"\ud83d\ude00\ud83d"': "\U0001f600\ufffd",
    r'"\ude00\ud83d"': "\ufffd\ufffd",
    r'"\ud83d\ud83d\ude00x"': "\ufffd\U0001f600x",
    r'"\\ud800"': r"\ud800",
    r'"\\\ud800"': "\\\ufffd",
    r'"\n\uDFFF\u00e9"': "\n\ufffd\u00e9",
}


@pytest.mark.parametrize("text", SURROGATES)
def test_a_half_of_a_surrogate_pair_becomes_a_replacement_character(text):
    content, _ = checked(JSON, text)
    assert json.loads(content) == SURROGATES[text]


def test_a_check_takes_time_in_proportion_to_the_body():
    """What grows with the square would take hours."""
    size = MIB
    for unit in (b"\\", b"\\\\", b'\\"', b"\\u", b"\\ud800", b'"', b"[", b"]", b"1", b"\\\\u", b" ", b",", b'""'):
        for content in (unit * (size // len(unit)), b'["' + unit * (size // len(unit)) + b'"]'):
            with contextlib.suppress(RefusedBodyError):
                checked(JSON, content)


def test_a_csv_table_has_a_bounded_number_of_cells():
    lines = ("a" * 76 + "\r\n") * 40_000  # base64 with line breaks, in quotes
    for content in ("image\n" + "x\n" * 256, f'image\n"data:image/png;base64,{lines}"\n', ""):
        checked(CSV, content)
    wide_and_long = ",".join("a" * 2000) + "\n" + "1\n" * 10_000  # rows that are short are filled up
    for content in (wide_and_long, "," * 2 * MIB, "a\n" * 2 * MIB, "a\r" * 2 * MIB, '"' + ",\n" * 2000):
        assert "too many rows and columns" in refusal(CSV, content)
    assert refusal(CSV, b"\xff") == refusal(CSV, "\ufeffa".encode("utf-16")) == "the CSV is not in UTF-8"


def parquet(column, **options):
    file = io.BytesIO()
    pq.write_table(pa.table({"image": column}), file, **options)
    return file.getvalue()


def repeated(rows, size):
    """A Parquet file of a few hundred bytes with one value in every row."""
    indices = pa.array(np.zeros(rows, dtype=np.int32))
    column = pa.DictionaryArray.from_arrays(indices, pa.array(["a" * size]))
    return parquet(column, compression="zstd", store_schema=False)


def test_a_parquet_file_counts_with_what_it_decodes_to():
    noise = [np.random.default_rng(seed).bytes(10_000) for seed in range(256)]
    for options in ({}, {"compression": "none"}, {"compression": "zstd"}, {"use_dictionary": False}):
        content = parquet(noise, **options)
        assert checked(PARQUET, content)[1] == 2 * len(content) + MIB
    frame = io.BytesIO()
    pd.DataFrame({"image": noise[:3]}).to_parquet(frame)
    checked(PARQUET, frame.getvalue())
    assert checked(PARQUET, repeated(200, 100_000))[1] == 2 * MAX_BYTES
    assert "257 images in one request, over the limit of 256" in refusal(PARQUET, parquet(["a"] * 257))


BOMBS = {
    "rows": (20_000, 100_000),
    "a value in every row": (255, 10_000_000),
    "2 million rows": (2_000_000, 1000),
    "one value": (1, 100_000_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_parquet_bomb_is_not_decoded(name):
    content = repeated(*BOMBS[name])
    pa.default_memory_pool().release_unused()
    memory = psutil.Process().memory_info().rss
    refusal(PARQUET, content)
    assert psutil.Process().memory_info().rss - memory < 100 * MIB


def test_damaged_parquet_is_told_without_what_is_in_it():
    content = parquet(["SECRET"] * 3)
    for damaged in (b"", b"PAR1", content[:-20], content[:-9] + b"x" * 9, content[:-60] + b"\xff" * 30 + content[-30:]):
        assert "SECRET" not in refusal(PARQUET, damaged)


def test_kinds_of_bodies():
    for given in (JSON, "Application/JSON ; charset=UTF-8", 'application/json; charset="utf-8"', f"{JSON};"):
        assert find_content_type(given) == JSON
    assert find_content_type(PARQUET, "identity") == PARQUET
    for headers in [("",), ("<script>",), (f"{JSON}; charset=latin1",), (f"{JSON}; x",), (JSON, "gzip")]:
        with pytest.raises(RefusedBodyError) as refused:
            find_content_type(*headers)
        assert refused.value.http_status == 415
        assert "script" not in refused.value.message


def test_words_of_others_are_left_out():
    error = "where @a of m points is not known (HTTPConnectionPool(host='10.0.0.1', port=5000): Max (retries)"
    assert without_words_of_others(f"{error}); models:/m/1 goes on") == (
        "where @a of m points is not known; models:/m/1 goes on"
    )
    assert without_words_of_others("over the limit of 256.") == "over the limit of 256."
