"""Lists a source: one entry per image."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from mlflow_resnet.errors import InvalidDatasetError, encodable, presentable
from mlflow_resnet.images.cells import choose_place, spell_path
from mlflow_resnet.images.conversion.archives import ARCHIVE_SUFFIXES, archive_members
from mlflow_resnet.images.conversion.coco import list_coco
from mlflow_resnet.images.conversion.tables import TABLE_SUFFIXES, Listed, list_table, open_table
from mlflow_resnet.images.decoding.decode import MAX_IMAGE_BYTES, read_bytes
from mlflow_resnet.images.directories import Walk
from mlflow_resnet.images.layout import Layout
from mlflow_resnet.images.sources import TOO_LARGE, list_stored_images, local_file, read_object
from mlflow_resnet.io.file_names import name_problem, quote_name, text_problem
from mlflow_resnet.io.text.credentials import without_credentials
from mlflow_resnet.io.text.places import S3, is_remote, local_path
from mlflow_resnet.options.convert import ConvertOptions

AZURE_SCHEMES = ("azureml://", "AmlDatastore://")
ANNOTATIONS_SUFFIX = ".json"


@dataclass(frozen=True)
class Entry:
    """One image of a source.

    Attributes:
        name: where it belongs below the image directory, with "/" between the parts.
        source: where it is: a path, a URI, or `archive!member`.
        read: its bytes, or an InvalidImageError. In an archive it must be called before the next entry is taken.
        path: the file that a link can lead to; empty if there is none.
        problem: why it cannot be used, if that is known already.
        size: bytes, if that is known already.
        place: where a person finds it, if `source` does not tell.
    """

    name: str
    source: str
    read: Callable[[], bytes]
    path: str = ""
    problem: str = ""
    in_archive: bool = False
    size: int = 0
    place: str = ""

    @property
    def label(self) -> str:
        """The class, empty if there is none."""
        return self.name.partition("/")[0] if "/" in self.name else ""


def is_listing(source: str) -> bool:
    """Returns whether `source` is a table or annotations, which name their images."""
    return source.lower().endswith((*TABLE_SUFFIXES, ANNOTATIONS_SUFFIX))


# Lists the images any number of times, in folders named after their classes, and counts what else is there, by the
# fields of `Ignored`.
Listing = Callable[[Counter[str]], Iterator[Entry]]


def open_source(options: ConvertOptions) -> tuple[Listing, tuple[str, ...]]:
    """Detects the kind of a source. Returns what lists it, and sentences about how it was understood.

    Folders that only wrap class folders are dropped.
    Raises InvalidDatasetError if it is of no known kind, or damaged.
    """
    source = options.source
    if not is_remote(source) and not os.path.lexists(source):
        raise InvalidDatasetError(source, "does not exist")
    if is_listing(source) and not os.path.isdir(source):
        return open_listing(options)
    if source.lower().endswith(ARCHIVE_SUFFIXES):
        listing: Listing = partial(list_archive_entries, source)
    elif os.path.isfile(source):
        kinds = ", ".join((*ARCHIVE_SUFFIXES, *TABLE_SUFFIXES, ANNOTATIONS_SUFFIX))
        raise InvalidDatasetError(source, f"not a directory, nor a file of a known kind ({kinds})")
    else:
        listing = partial(list_place_entries, source, follow_links=options.follow_links)
    wrapper = Layout(entry.name for entry in listing(Counter())).unwrap()
    return partial(unwrap_entries, listing, wrapper), ()


def unwrap_entries(listing: Listing, wrapper: str, ignored: Counter[str]) -> Iterator[Entry]:
    """The entries without the folders that wrap the class folders. A stray image beside these loses its folders."""
    for entry in listing(ignored):
        is_stray = wrapper and not entry.name.startswith(f"{wrapper}/")
        name = entry.name.rpartition("/")[2] if is_stray else entry.name.removeprefix(f"{wrapper}/")
        yield check_entry(replace(entry, name=name))


def check_entry(entry: Entry) -> Entry:
    """The entry, with a name that every table can hold, or unusable if it can be none in an image directory."""
    name = encodable(entry.name)
    problem = name_problem(name)
    return replace(entry, name=name, problem=f"its name {problem}" if problem else entry.problem)


def list_place_entries(source: str, ignored: Counter[str], follow_links: bool = False) -> Iterator[Entry]:
    """The images below a folder, or a prefix in S3."""
    if is_remote(source):
        for found in list_stored_images(source, ignored):
            yield Entry(found.object.name, found.uri, found.read, size=found.object.size)
        return
    for name in Walk(source, ignored, follow_links).images(""):
        path = os.path.abspath(os.path.join(source, name))
        yield Entry(name, encodable(path), partial(read_bytes, path), path)


def list_archive_entries(source: str, ignored: Counter[str]) -> Iterator[Entry]:
    times: Counter[str] = Counter()
    with errors_about(source, path := local_file(source)):
        for name, read in archive_members(path, ignored):
            times[name] += 1
            number = f"#{times[name]}" if times[name] > 1 else ""  # a tar may hold a name several times
            yield Entry(name, f"{encodable(source)}!{encodable(name)}{number}", read, in_archive=True)


@contextmanager
def errors_about(source: str, path: Path) -> Iterator[None]:
    """Replaces `path`, a local copy, by `source` in errors."""
    try:
        yield
    except InvalidDatasetError as error:
        if error.path != presentable(path):
            raise
        raise InvalidDatasetError(source, error.problem) from error


def open_listing(options: ConvertOptions) -> tuple[Listing, tuple[str, ...]]:
    """A table or annotations, whose relative paths begin from its folder if no other is given."""
    source, root = options.source, options.image_root or os.path.dirname(options.source)
    with errors_about(source, path := local_file(source)):
        if source.lower().endswith(ANNOTATIONS_SUFFIX):
            return partial(list_table_entries, source, path, root, partial(list_coco, path)), ()
        table = open_table(path, options)
    return partial(list_table_entries, source, path, root, partial(list_table, table)), tuple(table.notes())


def list_table_entries(
    source: str, path: Path, root: str, listing: Callable[[], Iterator[Listed]], ignored: Counter[str]
) -> Iterator[Entry]:
    with errors_about(source, path):
        for listed in listing():
            yield resolve_listed(listed, root) if listed.content is None else build_contained_entry(listed, source)


def resolve_listed(listed: Listed, root: str) -> Entry:
    """An image that a table or annotations name."""
    if problem := listed.problem or label_problem(listed.label) or path_problem(listed.path):
        called = quote_name(listed.path) if text_problem(listed.path) else without_credentials(encodable(listed.path))
        return unusable_entry(listed, called if listed.path.strip() else listed.row, problem)
    where = choose_place([resolve_below(root, spelling) for spelling in spell_path(listed.path)])
    name = name_below(listed.label, os.path.basename(where.rstrip("/")) or "image")
    if is_remote(where):
        return check_entry(Entry(name, without_credentials(where), partial(read_object, where)))
    where = os.path.abspath(where)
    return check_entry(Entry(name, encodable(where), partial(read_bytes, where), where))


def build_contained_entry(listed: Listed, source: str) -> Entry:
    """An image that is in a table itself. It is known by its content: rows come and go, and names may repeat."""
    content = listed.content or b""
    too_large = TOO_LARGE if len(content) > MAX_IMAGE_BYTES else ""
    if problem := listed.problem or label_problem(listed.label) or too_large:
        return unusable_entry(listed, listed.row, problem)
    digest = hashlib.sha256(content).hexdigest()[:16]
    file = "" if text_problem(listed.path) else os.path.basename(spell_path(listed.path)[-1])
    name = name_below(listed.label, file or digest)
    if name_problem(name):
        name = name_below(listed.label, digest)
    return Entry(name, f"{encodable(source)}!{digest}", lambda: content, size=len(content), place=listed.row)


def unusable_entry(listed: Listed, called: str, problem: str) -> Entry:
    """A row that gives no image, but whose class is known if its label can be one."""
    label = "" if label_problem(listed.label) else listed.label
    return Entry(name_below(label, "image"), called, bytes, problem=problem)


def name_below(label: str, file: str) -> str:
    file = file.lstrip(".") or "image"
    return f"{label}/{file}" if label else file


def resolve_below(root: str, path: str) -> str:
    """`path` as a local path or a URI: as it is if it is complete, else below `root`.

    Azure's URIs name a datastore, which is not at hand: what follows it is looked for below `root`.
    """
    if path.startswith(AZURE_SCHEMES):
        rest = path.split("://", 1)[1]
        path = rest.split("/paths/", 1)[1] if "/paths/" in rest else rest.partition("/")[2]
    if is_remote(path) or os.path.isabs(path):
        return path
    return f"{root.rstrip('/')}/{path}" if root else path


def path_problem(path: str) -> str:
    if problem := text_problem(path):
        return f"its path {problem}"
    if "://" in local_path(path) and not path.startswith((S3, *AZURE_SCHEMES)):
        return "URLs are not opened; download the image, and name its path"
    return ""


def label_problem(label: str) -> str:
    """Returns why a label cannot be the name of a class folder; empty if it can."""
    if not label:
        return ""
    problem = "is blank" if not label.strip() else name_problem(label)
    problem = "has a / or \\" if "/" in label or "\\" in label else problem
    return f"label {quote_name(label)} cannot be the name of a folder: it {problem}" if problem else ""
