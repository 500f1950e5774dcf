"""An image directory as an MLflow dataset input.

MLflow loads this module while it is itself imported, so nothing of ours is imported at the top: it may be half made.
Annotations are not postponed, because MLflow looks at the class in `from_image_directory`'s return annotation.
"""

import json
import os
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from mlflow.data.dataset import Dataset
from mlflow.data.dataset_source import DatasetSource
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.evaluation_dataset import EvaluationDataset
from mlflow.data.pyfunc_dataset_mixin import PyFuncConvertibleDatasetMixin, PyFuncInputsOutputs
from mlflow.types import ColSpec, DataType, Schema

if TYPE_CHECKING:
    from mlflow_resnet.images.directories import LabeledDirectory
    from mlflow_resnet.images.scan import Scan

FILE_COLUMN, LABEL_COLUMN = "image", "label"


class ImageDirectoryDataset(Dataset, PyFuncConvertibleDatasetMixin):
    """Class folders of images: digest of their content, number of images of each class, and where they are.

    Args:
        directory: the listed directory.
        source: where it came from, such as `s3://bucket/prefix`.
        name: white space in it becomes `_`.
        digest: of the content, as `scan` gives it; computed if it is not given.
        found: what a scan found out about each image; empty if none was made.
    """

    targets = LABEL_COLUMN  # the column of `frame` that `mlflow.models.evaluate` compares with

    def __init__(
        self,
        directory: "LabeledDirectory",
        source: DatasetSource,
        name: str | None = None,
        digest: str | None = None,
        found: "Scan | None" = None,
    ) -> None:
        from mlflow_resnet.images.scan import Scan

        self.directory = directory
        self.found = found or Scan({})
        super().__init__(source, name_for_stores(name or os.path.basename(os.path.abspath(directory.source))), digest)

    def _compute_digest(self) -> str:
        from mlflow_resnet.images.scan import digest_directory, scan
        from mlflow_resnet.io.parallel import default_threads

        self.found = scan(self.directory, default_threads())
        return digest_directory(self.directory.without(self.found.bad), self.found.hashes)

    @property
    def profile(self) -> dict[str, Any]:
        """Number of images and classes, images of each class, and what the directory holds besides."""
        from mlflow_resnet.io.text.characters import encodable

        return {
            "images": len(self.directory),
            "classes": len(self.directory.classes),
            "images_per_class": {encodable(name): count for name, count in self.directory.counts().items()},
            "ignored": str(self.directory.ignored),
        }

    @property
    def schema(self) -> Schema:
        """An image file and its label."""
        return Schema([ColSpec(DataType.binary, FILE_COLUMN), ColSpec(DataType.string, LABEL_COLUMN)])

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each image: where it is on this machine, and its label."""
        from mlflow_resnet.io.text.characters import encodable

        columns = {FILE_COLUMN: self.directory.paths, LABEL_COLUMN: self.directory.labels}
        return pd.DataFrame({name: [encodable(text) for text in texts] for name, texts in columns.items()})

    def to_pyfunc(self) -> PyFuncInputsOutputs:
        """Returns inputs and targets for a pyfunc model."""
        return PyFuncInputsOutputs([self.frame[[FILE_COLUMN]]], [self.frame[LABEL_COLUMN]])

    def to_evaluation_dataset(
        self, path: str | None = None, feature_names: Sequence[str] | None = None
    ) -> EvaluationDataset:
        """Returns the dataset for evaluators; `path` and `feature_names` are MLflow's."""
        return ImagesToEvaluate(self, path=path, feature_names=feature_names)

    def to_dict(self) -> dict[str, str]:
        """The base class's fields with schema and profile."""
        schema = json.dumps({"mlflow_colspec": self.schema.to_dict()})
        return super().to_dict() | {"schema": schema, "profile": json.dumps(self.profile)}


def name_for_stores(name: str) -> str:
    """A name for a data set that every store of MLflow can read back: the one in files splits its lines at spaces."""
    from mlflow_resnet.io.text.characters import encodable

    return "_".join(encodable(name).split()) or "images"


class ImagesToEvaluate(EvaluationDataset):
    """A table of paths and labels for any evaluator, with the dataset itself in `images`."""

    def __init__(self, images: ImageDirectoryDataset, **given: Any) -> None:
        self.images = images
        name = images.name.replace('"', "'")  # MLflow refuses it
        super().__init__(images.frame, targets=images.targets, name=name, digest=images.digest, **given)


def build_dataset_source(uri: str) -> DatasetSource:
    """Returns the place of the images as MLflow's dataset source, `local` or `s3`.

    Its UI shows type and place of these, and nothing of a type that it does not know. `load` of either gives a local
    folder, also where this package is not installed. MLflow registers its local source twice and warns of that; nobody
    can act on it.
    """
    from mlflow_resnet.io.text.places import is_remote
    from mlflow_resnet.mlflow_seams import AMBIGUOUS_SOURCE

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", AMBIGUOUS_SOURCE)
        return resolve_dataset_source(uri if is_remote(uri) else os.path.abspath(uri))


def from_image_directory(path: str, name: str | None = None, digest: str | None = None) -> ImageDirectoryDataset:
    """The class folders below `path`, local or s3://, as a dataset for `mlflow.log_input` and `mlflow.models.evaluate`.

    Raises:
        InvalidDatasetError: if `path` is no directory of class folders with images.
    """
    from mlflow_resnet.images.sources import fetch_labeled_directory
    from mlflow_resnet.io.text.places import local_path

    uri = local_path(os.fspath(path))
    return ImageDirectoryDataset(fetch_labeled_directory(uri), build_dataset_source(uri), name, digest)
