"""An image directory as an MLflow dataset input. A plugin entry point loads this module: it must not import torch.

Annotations here are not postponed, because MLflow looks at the class in `from_image_directory`'s return annotation.
"""

import json
import os
import warnings
from typing import Any

from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.types import ColSpec, DataType, Schema

from mlflow_resnet.errors import printable
from mlflow_resnet.images.directories import LabeledDirectory
from mlflow_resnet.images.parallel import default_threads
from mlflow_resnet.images.scan import Scan, digest_of, scan
from mlflow_resnet.images.sources import is_remote, labeled_directory


class ImageDirectoryDataset(Dataset):
    """Class folders of images: digest of their content, number of images of each class, and where they are.

    Args:
        directory: the listed directory.
        source: where it came from, such as `s3://bucket/prefix`.
        digest: of the content, as `scan` gives it; computed if it is not given.
        found: what a scan found out about each image; empty if none was made.
    """

    def __init__(
        self,
        directory: LabeledDirectory,
        source: DatasetSource,
        name: str | None = None,
        digest: str | None = None,
        found: Scan | None = None,
    ) -> None:
        self.directory = directory
        self.found = found or Scan({})
        super().__init__(source, name or printable(os.path.basename(os.path.abspath(directory.source))), digest)

    def _compute_digest(self) -> str:
        found = scan(self.directory, default_threads())
        return digest_of(self.directory.without(found.bad), found.hashes)

    @property
    def profile(self) -> dict[str, Any]:
        """Number of images and classes, images of each class, and what the directory holds besides."""
        return {
            "images": len(self.directory),
            "classes": len(self.directory.classes),
            "images_per_class": {printable(name): count for name, count in self.directory.counts().items()},
            "ignored": str(self.directory.ignored),
        }

    @property
    def schema(self) -> Schema:
        """An image file and its label."""
        return Schema([ColSpec(DataType.binary, "image"), ColSpec(DataType.string, "label")])

    def to_dict(self) -> dict[str, str]:
        """The base class's fields with schema and profile."""
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return super().to_dict() | {"schema": schema, "profile": json.dumps(self.profile)}


def source_of(uri: str) -> DatasetSource:
    """Where the images are, as MLflow's own kind of source, `local` or `s3`.

    Its UI shows the type and the place of these only, and `load` of either gives a local folder, also where this
    package is not installed. MLflow registers its local source twice and warns of that; nobody can act on it.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The specified dataset source can be interpreted in multiple ways")
        return resolve_dataset_source(uri if is_remote(uri) else os.path.abspath(uri))


def from_image_directory(path: str, name: str | None = None, digest: str | None = None) -> ImageDirectoryDataset:
    """The class folders below `path`, local or s3://, as a dataset for `mlflow.log_input`.

    Raises:
        InvalidDatasetError: if `path` is no directory of class folders with images.
    """
    return ImageDirectoryDataset(labeled_directory(os.fspath(path)), source_of(os.fspath(path)), name, digest)
