"""Image files as they are, without base64: one as the body, or several in a form."""

from __future__ import annotations

from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import Field, File, create_form_parser

from mlflow_resnet.errors import RefusedBodyError, printable
from mlflow_resnet.serving.protocols.question import Question, parse_params

LONGEST_NAME = 200  # characters
MAX_FIELDS, MAX_FIELD_BYTES = 1024, 1024


def parse_picture(content: bytes) -> Question:
    """Returns the question of one picture, which is the whole body."""
    return Question([content], {})


def parse_form(content_type: str, content: bytes, max_images: int) -> Question:
    """Returns what a form asks: each file is a picture, and each other field a param.

    Raises:
        RefusedBodyError: if it is damaged, has more than `max_images` files, or a field is no param.
    """
    names: list[str] = []
    pictures: list[bytes] = []
    texts: list[tuple[str, str]] = []

    def take_file(file: File) -> None:
        if len(pictures) == max_images:
            raise RefusedBodyError(f"more than {max_images} images in one request; send several requests")
        name = (file.file_name or b"").decode("utf-8", "replace")
        names.append(printable(name)[:LONGEST_NAME] or f"image[{len(names)}]")
        file.file_object.seek(0)
        pictures.append(file.file_object.read())
        file.close()

    def take_field(field: Field) -> None:
        value = field.value or b""
        texts.append(((field.field_name or b"").decode("utf-8", "replace"), value.decode("utf-8", "replace")))
        if len(texts) > MAX_FIELDS:
            raise RefusedBodyError("the form has too many fields")

    limits: dict[Any, Any] = {"MAX_MEMORY_FILE_SIZE": len(content) + 1, "MAX_FIELD_SIZE": MAX_FIELD_BYTES}
    try:
        parser = create_form_parser({"Content-Type": content_type.encode("latin-1")}, take_field, take_file, limits)
        parser.write(content)
        parser.finalize()
    except (FormParserError, ValueError):
        raise RefusedBodyError("the form is damaged; send multipart/form-data with a file for each image") from None
    if not pictures:
        raise RefusedBodyError("the form has no file; send a file for each image, as curl -F image=@photo.jpg does")
    return Question(pictures, parse_params(texts), tuple(names))
