"""Fixed sentences in place of messages that could repeat input or reveal addresses.

MLflow's scoring server (3.17) refuses with the input, with bytes of it in the text of exceptions, or with stack traces.
"""

from __future__ import annotations

import re

from mlflow_resnet import mlflow_seams

LONGEST_REASON = 500  # characters
CANNOT_BE_USED = "the input cannot be used; send images in base64 as inputs, or a table with one column of them"
COLUMNS_CANNOT_BE_USED = "the input cannot be used: of several columns, one must be named image"
NUMBERS_CANNOT_BE_USED = "the input cannot be used: its column of images holds numbers"
FAILED = "the images could not be scored; the server's log says why"
PLACE = re.compile(mlflow_seams.PLACE_IN_JSON)
# What MLflow says in its refusals -> what is said instead.
SENTENCES = {
    mlflow_seams.NOT_JSON: "the body is not valid JSON",
    mlflow_seams.NOT_ONE_INPUT: (
        "the JSON must be an object with exactly one of inputs, instances, dataframe_split and dataframe_records"
    ),
    mlflow_seams.NOT_CSV: "the body cannot be read as CSV",
    mlflow_seams.NOT_PARQUET: "the body cannot be read as Parquet",
    mlflow_seams.PARAMS_NOT_A_DICTIONARY: "params must be an object",
    mlflow_seams.PARAMS_OF_OTHER_TYPES: "a value in params has another type than predict takes",
}


def sentence_for(message: str) -> str:
    """Returns a fixed sentence for a message of MLflow's, which may hold the input."""
    beginning = message[:LONGEST_REASON]
    sentence = next((ours for theirs, ours in SENTENCES.items() if theirs in beginning), CANNOT_BE_USED)
    place = PLACE.search(beginning)
    return f"{sentence}: {place[1]}" if place else sentence


def without_words_of_others(sentence: str) -> str:
    """Removes parenthesized foreign text, such as hosts, ports, URIs and paths, from our sentence."""
    return re.sub(r" \(.*\)", "", sentence, flags=re.DOTALL)
