"""COCO annotations, for classification: one label per image, however many boxes have it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow_resnet.errors import InvalidDatasetError, InvalidTableError
from mlflow_resnet.images.cells import format_cell
from mlflow_resnet.images.conversion.tables import Listed
from mlflow_resnet.io.file_names import quote_name
from mlflow_resnet.io.memory import available_memory, size_in_words
from mlflow_resnet.io.reasons import one_line

BYTES_PER_SIGN = {b"{": 232, b"[": 72, b",": 40, b'"': 30}  # what Python takes for what JSON writes so, at most


def list_coco(path: Path) -> Iterator[Listed]:
    """The file_name of each image and the name of its category, in the order of the file.

    Raises InvalidDatasetError if this is no file of COCO annotations.
    """
    try:
        content = json.loads(read_affordable(path))
        categories = read_by_id(content, "categories", "name")
        images = read_by_id(content, "images", "file_name")
        labels: dict[Any, set[str]] = {key: set() for key in images}
        for annotation in content["annotations"]:
            image, category = annotation["image_id"], annotation["category_id"]
            for part, known, key in (("images", images, image), ("categories", categories, category)):
                if key not in known:
                    problem = f"an annotation is about id {quote_name(key)}, which none of its {part} has"
                    raise InvalidTableError(problem)
            labels[image].add(categories[category])
    except InvalidTableError as error:
        raise InvalidDatasetError(path, error.message) from None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        problem = f"no COCO annotations, with images, annotations and categories ({reason})"
        raise InvalidDatasetError(path, problem) from None
    for number, (key, found) in enumerate(labels.items(), 1):
        names = sorted(found - {""})
        problem = "" if len(names) == 1 else f"{len(names)} categories ({', '.join(names)})" if names else "no category"
        if not images[key]:
            problem = "no file_name"
        yield Listed(images[key], "" if problem else names[0], problem, f"image {number}")


def read_by_id(content: Any, part: str, field: str) -> dict[Any, str]:
    """A field of each image or category, by its id. Raises InvalidTableError if several have one id."""
    found: dict[Any, str] = {}
    for each in content[part]:
        text = format_cell(each[field])
        if found.setdefault(each["id"], text) != text:
            raise InvalidTableError(f"several of its {part} have the id {quote_name(each['id'])}; give each its own")
    return found


def read_affordable(path: Path) -> bytes:
    """Reads a JSON file if memory suffices for it parsed: up to 30 bytes for each byte.

    Raises InvalidTableError if there is not.
    """
    room, needed = available_memory() // 2, path.stat().st_size
    if needed <= room:
        content = path.read_bytes()
        needed = sum(size * content.count(sign) for sign, size in BYTES_PER_SIGN.items()) + 2 * len(content)
    if needed > room:
        problem = f"it takes {size_in_words(needed)} of memory to read, of {size_in_words(room)} that there are for it"
        raise InvalidTableError(f"{problem}; leave out what is not needed, such as segmentations")
    return content
