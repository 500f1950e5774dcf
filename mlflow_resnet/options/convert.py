"""The options of `convert`."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow_resnet.io.text.places import is_remote
from mlflow_resnet.options.base import (
    HERE_OR_IN_S3,
    Options,
    csv_formulas_option,
    follow_links_option,
    num_workers_option,
    option,
)


@dataclass(frozen=True, kw_only=True)
class ConvertOptions(Options):
    """Make an image directory from folders, archives, S3, tables or annotations; unreadable files are left out.

    Repeated, it goes on where it stopped, adds what is new, moves what has another label, and removes what a table does
    not name any more.
    """

    examples = "mlflow-resnet convert --source photos.zip --output-dir flowers"

    source: str = option(
        "folder, s3:// prefix, .zip, .tar[.gz|.bz2], table (.csv, .parquet, .jsonl) or COCO annotations (.json)",
        place=HERE_OR_IN_S3,
    )
    output_dir: str = option(
        "image directory to write, local or s3://: new, empty, or, if local, from an earlier call with the same source",
        place=HERE_OR_IN_S3,
    )
    image_root: str = option(
        "folder or s3:// prefix that a table's relative paths begin from; empty: its own", "", place=HERE_OR_IN_S3
    )
    image_column: str = option("a table's column of paths and URIs; empty: image_url, image, path, …", "")
    label_column: str = option("a table's column of labels; empty: label, class, category, …", "")
    transfer: str = option(
        "copy the images, hardlink them, or reference: write only an index, and read them where they are",
        "copy",
        choices=("copy", "hardlink", "reference"),
    )
    csv_formulas: str = csv_formulas_option()
    follow_links: bool = follow_links_option()
    num_workers: int = num_workers_option()

    def combinations(self) -> list[str]:
        if is_remote(self.output_dir) and self.transfer != "copy":
            return [f"transfer is {self.transfer!r}, but output_dir is in S3, where only copies go; give copy"]
        return []
