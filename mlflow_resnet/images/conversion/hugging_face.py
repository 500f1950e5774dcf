"""Reads Hugging Face's description of columns from a Parquet file's metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_resnet.io.untrusted import parse_fields

KEY = b"huggingface"


def read_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Returns the type of each column, such as {"label": {"names": ["cat"], "_type": "ClassLabel"}}."""
    try:
        features = parse_fields((metadata or {}).get(KEY, b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def read_class_names(features: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The classes that the numbers in a column stand for; empty if they stand for none."""
    feature = features.get(column)
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(name.strip() for name in names)


def find_features(features: Mapping[str, Any], kind: str) -> list[str]:
    """The columns of a kind: "Image" or "ClassLabel"."""
    return [name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == kind]
