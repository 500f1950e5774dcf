"""COCO annotations, for classification: one label per image, however many boxes have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError
from mlflow_resnet.images.conversion.tables import Columns, Listed
from mlflow_resnet.images.reasons import one_line


def listed_in_coco(path: Path, columns: Columns) -> Iterator[Listed]:
    """The file_name of each image and the name of its category, in the order of the file.

    Raises:
        InvalidDatasetError: if this is no file of COCO annotations.
    """
    try:
        content = json.loads(path.read_bytes())
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        images = {image["id"]: str(image["file_name"]) for image in content["images"]}
        labels: dict[Any, set[str]] = {key: set() for key in images}
        for annotation in content["annotations"]:
            labels[annotation["image_id"]].add(categories[annotation["category_id"]])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        problem = f"no COCO annotations, with images, annotations and categories ({reason})"
        raise InvalidDatasetError(path, problem) from None
    for key, found in labels.items():
        if len(found) == 1:
            yield Listed(images[key], *found)
        else:
            problem = f"{len(found)} categories ({', '.join(sorted(found))})" if found else "no category"
            yield Listed(images[key], "", problem)
