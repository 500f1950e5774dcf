"""What is said instead of what others say, which may repeat what somebody sent, or tell where something is.

MLflow's scoring server (3.17) refuses with the input, with bytes of it in the text of exceptions, or with stack traces.
"""

from __future__ import annotations

import re

LONGEST_REASON = 500  # characters
CANNOT_BE_USED = "the input cannot be used; send images in base64 as inputs, or a table with one column of them"
COLUMNS_CANNOT_BE_USED = "the input cannot be used: of several columns, one must be named image"
NUMBERS_CANNOT_BE_USED = "the input cannot be used: its column of images holds numbers"
FAILED = "the images could not be scored; the server's log says why"
PLACE = re.compile(r"JSONDecodeError\(.{0,80}(line \d+ column \d+ \(char \d+\))")
# What MLflow says in its refusals -> what is said instead.
SENTENCES = {
    "JSONDecodeError": "the body is not valid JSON",
    "exactly one of the input fields": (
        "the JSON must be an object with exactly one of inputs, instances, dataframe_split and dataframe_records"
    ),
    "valid CSV-formatted": "the body cannot be read as CSV",
    "valid Parquet": "the body cannot be read as Parquet",
    "Parameters must be a dictionary": "params must be an object",
    "Invalid parameters found": "a value in params has another type than predict takes",
}


def sentence_for(message: str) -> str:
    """What is said instead of a message of MLflow's, which may hold the input."""
    beginning = message[:LONGEST_REASON]
    sentence = next((ours for theirs, ours in SENTENCES.items() if theirs in beginning), CANNOT_BE_USED)
    place = PLACE.search(beginning)
    return f"{sentence}: {place[1]}" if place else sentence


def without_words_of_others(sentence: str) -> str:
    """A sentence of ours without what stands in parentheses: others' messages, with hosts, ports, URIs and paths."""
    return re.sub(r" \(.*\)", "", sentence, flags=re.DOTALL)
