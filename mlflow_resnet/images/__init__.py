"""Directories of images. Knows neither torch nor MLflow's tracking.

- `decoding`: bytes to pictures
- `sources`: an image's bytes, wherever they are
- `rules`: what belongs to a data set, by its name
- `layout`: what folders are: classes, parts of a data set, wrappers
- `directories`: lists labeled and unlabeled directories
- `cells`, `parquet_rows`: tables of images as people write them
- `conversion`: folders, archives, S3, tables and annotations to an image directory
- `index`: the table of its images that a conversion writes
- `splitting`: one labeled directory to two or three
- `pairs`: which images are equal or nearly so
- `scan`: reads every image once: which are bad, and what identifies the data
- `audit`: whether the images can be trusted
- `cache`: images decoded and resized once; in memory, or on disk, or not kept at all
- `digits`: the demo data set
"""
